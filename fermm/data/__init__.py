"""FER2013 and drawn faces: reading, landmarks, splits, batches. Knows nothing of models."""
