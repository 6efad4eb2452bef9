"""Documentation for people; `making` builds it."""
