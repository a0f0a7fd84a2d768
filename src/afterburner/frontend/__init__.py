"""From TensorFlow's graphs to the IR and back to its tensors. The only folder that imports tensorflow."""
