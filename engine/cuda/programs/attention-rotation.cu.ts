/*
 * Gradients of rotated queries and keys, turned back by the angles of their positions as a kernel stores them. A pair (i, i + D/2) lies
 * with different threads of a product's accumulators, so rows come from shared memory, where they are bf16 already. A warp has 16 rows;
 * its angles, at most 64 registers a thread, are asked for before the accumulators are in shared memory.
 */
/** Pairs of one access: the most that every head's first element and its middle are aligned to. */
const pairs = (half: number): number => [8, 4, 2, 1].find((count) => half % count === 0)!;

/** The part of a kernel's key that says whether it turns gradients back. */
export const rotationKey = (rotated = false): string => (rotated ? '_rotated' : '');

/** After the definition of D. */
export const rotationCommon = (headSize: number): string => /* cuda */ `
constexpr int HALF = D / 2, PAIRS = ${pairs(headSize / 2)}, PACKS = HALF / PAIRS, PACKS_EACH = (16 * PACKS + 31) / 32;
struct Angles { Pack<float, PAIRS> cosines[PACKS_EACH], sines[PACKS_EACH]; };
/** The angles of a warp's 16 rows of which so many are there; cosines, sines: of the first row, HALF values each. */
__device__ __forceinline__ void loadAngles(Angles& angles, const float* cosines, const float* sines, int rows) {
  int lane = laneNow();
  #pragma unroll
  for (int e = 0; e < PACKS_EACH; e++) {
    int i = e * 32 + lane;
    angles.cosines[e] = {}; angles.sines[e] = {}; // registers that hold nothing before
    if (i >= 16 * PACKS || i / PACKS >= rows) continue;
    angles.cosines[e] = loadPack<PAIRS>(cosines + i * PAIRS);
    angles.sines[e] = loadPack<PAIRS>(sines + i * PAIRS);
  }
}
/** Stores a warp's rows, turned back; at(row, column): where a value is in shared memory. */
template <typename At> __device__ __forceinline__ void storeTurnedBack(bf16* to, int rowStride, int rows, const Angles& angles, At at) {
  int lane = laneNow();
  #pragma unroll
  for (int e = 0; e < PACKS_EACH; e++) {
    int i = e * 32 + lane, row = i / PACKS, column = i % PACKS * PAIRS;
    if (i >= 16 * PACKS || row >= rows) continue;
    Pack<bf16, PAIRS> a = loadPack<PAIRS>(at(row, column)), b = loadPack<PAIRS>(at(row, column + HALF)), low, high;
    #pragma unroll
    for (int j = 0; j < PAIRS; j++) {
      float u = toFloat(a.v[j]), v = toFloat(b.v[j]), cosine = angles.cosines[e].v[j], sine = angles.sines[e].v[j];
      low.v[j] = toBf16(u * cosine + v * sine);
      high.v[j] = toBf16(v * cosine - u * sine);
    }
    storePack(to + row * rowStride + column, low);
    storePack(to + row * rowStride + column + HALF, high);
  }
}
`;
