"""Search spaces to launch, read and copy: ``robsearch launch search_spaces.quickstart:digits``."""
