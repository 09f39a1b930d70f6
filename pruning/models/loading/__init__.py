"""Loading models: finding or downloading their files, choosing devices and number formats, and joining the pair."""
