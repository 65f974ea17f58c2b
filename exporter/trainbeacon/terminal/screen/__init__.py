"""The screen of `top`: drawn of `view`, driven by keys, never waiting for a source."""
