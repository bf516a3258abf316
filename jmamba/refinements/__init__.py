"""Pieces that research hands to a mixer: gates of chosen signs, sorted tokens."""
