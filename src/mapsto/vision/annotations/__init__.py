"""Box annotations of data sets in their formats: Pascal VOC (XML), COCO (JSON), YOLO (text) and TensorFlow's table (csv)."""
