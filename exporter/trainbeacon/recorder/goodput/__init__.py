"""Where the time of the run goes: productive, lost and repeated work, and MFU."""
