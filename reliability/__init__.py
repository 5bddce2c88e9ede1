"""Shows, on real runs, what the tests show on small ones: nothing is lost, whatever happens."""
