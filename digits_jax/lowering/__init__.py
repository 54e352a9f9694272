"""The same function in other operations: those that XLA compiles to fast code on a platform.

On a GPU these are matrix products (see ``matrix_products``), and on a TPU none. The rest is of a
CPU. XLA's compiler for it has fast code for a convolution whose dimensions are in one order, and
brings other orders into it only outside of loops. The gradient of a convolution has other orders,
and an epoch is a loop (``lax.scan``). ``lower`` evaluates a function's jaxpr with other operations
for convolutions and pools, before the function is differentiated. The values are the same up to
rounding; what has no rule here runs as it is.

XLA's convolution, forward and backward in the one order of dimensions that is fast, is at full
speed only for more than 16 features. With fewer, two or four results beside one another become as
many features of one convolution, with more taps and a stride. An odd number of channels, which
costs much with few features, gets a channel of zeros. Milliseconds of one core with AVX-512,
forward, 128 images, 3x3 taps unless said (jax 0.10.2; the backward passes gain less):

| image, C to F | alone | beside one another |
|---|---|---|
| 28x28, 1 to 16 | 5.7 | 0.8 |
| 28x28, 1 to 6, 5x5 taps | 8.5 | 1.8 |
| 14x14, 6 to 16, 5x5 taps | 4.2 | 1.3 |
| 14x14, 16 to 6, 5x5 taps | 5.7 | 2.4 |
| 28x28, 16 to 16 | 10.4 | 7.4 |
| 32x32, 3 to 32 | 13.8 | 3.2 |
| 8x8, 16 to 16 | 0.68 | 0.51 |

Others become a matrix product of windows: of whole rows of a small image with one channel, with a
matrix that is zero where a pixel is outside of a window (8x8, 1 to 16: 0.06); of all pixels of a
tiny one (2x2, 32 to 64: 0.11, where a row at once takes 0.15); of windows that see each pixel once.
Windows that take more than ``PATCH_BYTES`` are never made: XLA's convolution needs no such memory.
A transposed convolution is one convolution for each phase of its result, without the zeros between
pixels, forward and in both gradients; a depthwise one is a sum of shifted images.

Shapes: B batch, C channels, F features, G groups, T taps of a window; ``space`` stands for one, two
or three axes of pixels. Inside the rules images are [B, *space, C] and kernels [*window, C / G, F].
"""
