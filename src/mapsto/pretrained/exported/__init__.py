"""Exported models: ONNX files that mapsto wrote, opened and answered with like model folders."""
