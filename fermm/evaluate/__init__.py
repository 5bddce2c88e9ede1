"""Numbers and figures from saved predictions; knows nothing of how a network was trained."""
