/**
 * A token file is a safetensors file of all rows end to end: `input_ids` I32 [tokens], `loss_mask` U8 [tokens] and `row_offsets`
 * I32 [rows + 1], where row i is tokens row_offsets[i] … row_offsets[i + 1] - 1.
 */
import { FormatError } from '../formats/format-error.js';
import { readSafetensors, writeSafetensors, type SafetensorsTensor } from '../formats/safetensors.js';
import type { TokenRows } from './batches.js';
import type { TokenTable } from './token-table.js';

interface Vectors {
  I32: Int32Array;
  U8: Uint8Array;
}

/** Writes rows whole or not at all; the same rows give the same bytes. */
export async function writeTokenFile(path: string, rows: TokenTable): Promise<void> {
  const { ids, mask, offsets } = rows.flat();
  await writeSafetensors(path, new Map<string, SafetensorsTensor>([
    ['input_ids', { dtype: 'I32', shape: [ids.length], data: ids }],
    ['loss_mask', { dtype: 'U8', shape: [mask.length], data: mask }],
    ['row_offsets', { dtype: 'I32', shape: [offsets.length], data: offsets }],
  ]));
}

/** Reads a token file into memory; rows are views, not copies. Throws `FormatError` when it is not one. */
export async function readTokenFile(path: string): Promise<TokenRows> {
  const tensors = await readSafetensors(path);
  const vector = <D extends keyof Vectors>(name: string, dtype: D): Vectors[D] => {
    const tensor = tensors.get(name);
    if (!tensor) throw new FormatError('missing_tensor', path, `tensor ${name}: expected to exist, got none`);
    if (tensor.dtype !== dtype || tensor.shape.length !== 1) {
      throw new FormatError('wrong_shape', path, `tensor ${name}: expected a vector of ${dtype}, got ${tensor.dtype} [${tensor.shape.join(',')}]`);
    }
    return tensor.data as Vectors[D];
  };
  const ids = vector('input_ids', 'I32');
  const mask = vector('loss_mask', 'U8');
  const offsets = vector('row_offsets', 'I32');
  if (mask.length !== ids.length) {
    throw new FormatError('wrong_shape', path, `tensor loss_mask: expected ${ids.length} entries, as input_ids has, got ${mask.length}`);
  }
  checkOffsets(path, offsets, ids.length);
  return {
    count: offsets.length - 1,
    length: (row) => offsets[row + 1] - offsets[row],
    ids: (row) => ids.subarray(offsets[row], offsets[row + 1]),
    mask: (row) => mask.subarray(offsets[row], offsets[row + 1]),
  };
}

function checkOffsets(path: string, offsets: Int32Array, tokens: number): void {
  if (offsets[0] !== 0 || offsets.at(-1) !== tokens) {
    throw new FormatError('bad_header', path, `tensor row_offsets: expected 0 … ${tokens}, got ${offsets[0] ?? 'nothing'} … ${offsets.at(-1) ?? 'nothing'}`);
  }
  for (let row = 1; row < offsets.length; row++) {
    if (offsets[row] <= offsets[row - 1]) {
      throw new FormatError('bad_header', path, `tensor row_offsets[${row}]: expected more than ${offsets[row - 1]}, got ${offsets[row]}`);
    }
  }
}
