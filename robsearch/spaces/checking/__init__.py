"""What `robsearch check` does: every kind of recipe takes a first step in a process of its own."""
