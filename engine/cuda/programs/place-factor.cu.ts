/** A branch's B behind the columns of its matrix: what one thread writes, of 8 values. */
export const placeFactor = /* cuda */ `
/** The at-th 8 of \`room\` columns that begin at \`place\` in every row: B [rows, rank] from column \`from\` on, and zeros. */
__device__ __forceinline__ void placeFactor(bf16* place, i64 stride, int rows, int room, const float* b, int rank, int from, int at) {
  int units = room / 8, row = at / units, k = at % units * 8;
  if (row >= rows) return;
  Pack<bf16, 8> out;
  #pragma unroll
  for (int i = 0; i < 8; i++) out.v[i] = k + i >= from && k + i < from + rank ? toBf16(b[(i64)row * rank + k + i - from]) : bf16{ 0 };
  storePack(place + row * stride + k, out);
}
`;
