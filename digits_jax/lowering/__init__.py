"""The same function in other operations: those that XLA compiles to fast code on a CPU.

XLA's CPU compiler has fast code for a convolution whose dimensions are in one order, and brings
other orders into it only outside of loops. The gradient of a convolution has other orders, and an
epoch is a loop (``lax.scan``). ``lower`` evaluates a function's jaxpr with other operations for
convolutions and pools, before the function is differentiated. The values are the same up to
rounding; what has no rule here runs as it is.

Three forms of a convolution, and what they take forward, in milliseconds of one core with AVX-512,
128 images, 3x3 taps unless said (jax 0.10.2; the backward passes are alike):

| image, C to F | direct | patches | a row at once | all pixels at once |
|---|---|---|---|---|
| 28x28, 1 to 16 | 5.4 | 4.5 | **2.5** | |
| 28x28, 1 to 6, 5x5 taps | 10.3 | 29.9 | **2.1** | |
| 14x14, 6 to 16, 5x5 taps | 4.7 | 5.5 | **2.7** | |
| 8x8, 1 to 16 | | 0.20 | **0.06** | |
| 8x8, 16 to 16 | **0.69** | | 1.19 | |
| 14x14, 16 to 32 | **2.4** | 13.5 | 11.7 | |
| 32x32, 3 to 32 | **14.0** | 38.1 | 22.6 | |
| 4x4, 16 to 32 | **0.18** | 0.28 | 0.26 | |
| 2x2, 32 to 64 | | | 0.15 | **0.11** |

*Direct* is XLA's own convolution, forward and backward in the one order of dimensions that is fast.
It is at full speed from 16 channels and features on. The others are a matrix product: of patches,
or of whole rows or images with a matrix that is zero where a pixel is outside of a window. That
does more arithmetic, at up to seven times the rate. Windows that take more than ``PATCH_BYTES``
are never made: then the form is direct, which needs no such memory.

Shapes: B batch, C channels, F features, G groups, T taps of a window; ``space`` stands for one, two
or three axes of pixels. Inside the rules images are [B, *space, C] and kernels [*window, C / G, F].
"""
