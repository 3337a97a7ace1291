/*
 * The gradient of a gated activation that a linear layer reads, with that layer's low-rank branch. Bound by memory bandwidth: the
 * frozen product, gate and up are read once, and both gradients written; the branch costs no pass of its own.
 */
import { ceilDiv, type CudaProgram } from '../program.js';
import { gatedActivation } from './block-ops.cu.js';
import { each, SPREAD_COLUMNS, SPREAD_ROWS, spreadPieces, spreadProducts, type LoraSpreadShape } from './lora.cu.js';

export type GatedLinearGradShape = Pick<LoraSpreadShape, 'rank' | 'members' | 'rows' | 'width' | 'masked'>;

/**
 * With dx [rows, width] = product + Σ low [rows, rank] · a over the members, what their keep bits have: dGate = dx·up·silu'(gate),
 * dUp = dx·silu(gate). `dUp` may lie where `product` does: who reads a value there writes it. Columns are dealt out as in `lora_spread`.
 * The rows of dGate, dUp and product are `stride` values apart, a multiple of 8. Args: rows, bits' pitch, dGate, dUp, product, gate, up, width,
 * stride, then for each member low, a, bits.
 */
export const gatedLinearGradProgram = ({ rank, members, rows, width, masked }: GatedLinearGradShape): CudaProgram => {
  const { fragments, add } = spreadPieces({ factor: 'a', rank, members, mode: 'sum', masked });
  return {
    key: `gated_linear_grad_${rank}x${members}${masked ? '_masked' : ''}`,
    entry: 'gated_linear_grad',
    grid: [ceilDiv(width, SPREAD_COLUMNS), ceilDiv(rows, SPREAD_ROWS), 1],
    block: [SPREAD_COLUMNS, 1, 1],
    source: () => gatedActivation + spreadProducts + /* cuda */ `
extern "C" __global__ void __launch_bounds__(${SPREAD_COLUMNS}) gated_linear_grad(i64 rows, int pitch, bf16* dGate, bf16* dUp, const bf16* product, const bf16* gate, const bf16* up, int width, int stride,
    ${each(members, (m) => `const bf16* low${m}, const float* w${m}, const u8* bits${m}`, ', ')}) {
  int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3, column = blockIdx.x * ${SPREAD_COLUMNS} + (threadIdx.x >> 5) * 32, own = column + t * 8;
  if (column >= width) return;
  bool inColumns = own < width;
  ${fragments}
  i64 begin = (i64)blockIdx.y * ${SPREAD_ROWS}, end = min(begin + ${SPREAD_ROWS}, rows);
  #pragma unroll 1
  for (i64 row = begin; row < end; row += 16) {
    Pack<u32, 4> d[2], z[2], u[2];
    #pragma unroll
    for (int h = 0; h < 2; h++) {
      // Reads outside are led to a valid place, so that no branch holds them up; nothing comes of them.
      i64 from = min(row + g + 8 * h, end - 1), at = from * width + (inColumns ? own : column);
      d[h] = loadOfLine(product + from * stride + (inColumns ? own : column));
      z[h] = loadOfLine(gate + at);
      u[h] = loadOfLine(up + at);
    }
    float y[2][8] = {};
    ${add}
    #pragma unroll
    for (int h = 0; h < 2; h++) {
      Pack<u32, 4> first, second;
      #pragma unroll
      for (int i = 0; i < 4; i++) {
        float toGate[2], toUp[2];
        gatedGradient(toGate[0], toUp[0], y[h][2 * i] + lowHalf(d[h].v[i]), lowHalf(z[h].v[i]), lowHalf(u[h].v[i]));
        gatedGradient(toGate[1], toUp[1], y[h][2 * i + 1] + highHalf(d[h].v[i]), highHalf(z[h].v[i]), highHalf(u[h].v[i]));
        first.v[i] = packBf16(toGate[0], toGate[1]);
        second.v[i] = packBf16(toUp[0], toUp[1]);
        asm volatile("" : "+r"(first.v[i]), "+r"(second.v[i])); // computed by all: else the compiler moves the reads behind the branch, where they wait for the product
      }
      i64 at = (row + g + 8 * h) * stride + own;
      if (inColumns && row + g + 8 * h < end) {
        *reinterpret_cast<Pack<u32, 4>*>(dGate + at) = first;
        *reinterpret_cast<Pack<u32, 4>*>(dUp + at) = second;
      }
    }
  }
}`,
  };
};
