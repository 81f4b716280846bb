"""Model families: fit, evaluate, export to ONNX with the preprocessing inside, measure parity.

catalog: what there is, without heavy imports; frame: a table made ready; encoding: raw columns to numbers, in numpy and
in ONNX; linear, trees: the families; model: what training gives; metrics; fitting: the way in.
"""
