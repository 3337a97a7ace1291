/** Registers the composed kernels of every op. */
import './adam-w.js';
import './causal-attention.js';
import './dropout-mask.js';
import './embedding.js';
import './frozen-weight.js';
import './gradient-sums.js';
import './linear-cross-entropy.js';
import './quantized-linear.js';
import './rms-norm.js';
import './rotary-embedding.js';
import './swi-glu.js';
import './uniform-noise.js';
