"""Finding handwritten digits in cluttered scenes with RetinaNet: scenes, model, training and evaluation."""
