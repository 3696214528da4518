"""What a training leaves: the model folder, and the places from which one comes."""
