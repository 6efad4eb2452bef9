"""Many samples under several settings: drawn, compared, and held against controls."""
