"""Model families: fit, evaluate, export to ONNX with the preprocessing inside, measure parity.

catalog: what there is, without heavy imports; frame, target: a table made ready; encoding: raw columns to numbers, in
numpy and in ONNX; linear with regression and logistic, trees: the families; model: what training gives; metrics;
parity; fitting: the way in.
"""
