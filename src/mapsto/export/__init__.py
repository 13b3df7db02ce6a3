"""Export of a model to one file that ONNX Runtime opens, checked on the user's rows before it is written."""
