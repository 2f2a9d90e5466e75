"""What a person asks of a search that exists: evaluate, compare, status, stop, ui."""
