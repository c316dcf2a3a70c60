"""Talking to the language models that jobs made."""
