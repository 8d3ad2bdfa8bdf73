"""INT8 quantisation by ONNX Runtime's own tool: u8 activations, s8 per-channel weights, MinMax ranges."""

import logging
import tempfile
from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

FORMS = {"qdq": QuantFormat.QDQ, "qoperator": QuantFormat.QOperator}


class _Reader(CalibrationDataReader):
    def __init__(self, name, samples):
        self.name, self.samples = name, iter(samples)

    def get_next(self):
        sample = next(self.samples, None)
        return None if sample is None else {self.name: sample}


def quantise(model, form, samples, activation=QuantType.QUInt8, options=None):
    """Returns the INT8 model of `form` ("qdq" or "qoperator"); `samples` are whole input tensors."""
    name = model.graph.input[0].name
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, source)
        # It asks for a pre-processing step whose work (folding, shapes) these graphs already carry.
        logging.disable(logging.WARNING)
        quantize_static(
            source,
            target,
            _Reader(name, samples),
            quant_format=FORMS[form],
            per_channel=True,
            activation_type=activation,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options=options or {},
        )
        logging.disable(logging.NOTSET)
        return onnx.load(target)
