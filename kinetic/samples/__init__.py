"""What was drawn: as rows, as parts on disk, as files for people and programs."""
