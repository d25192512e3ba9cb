"""Models as ONNX graphs: the only place where onnx, onnx-ir and onnxscript are used."""
