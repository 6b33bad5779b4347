"""One page for one run or many."""
