"""The mathematics: what can be followed, how, and what it costs on the way. No Lightning, no files."""
