import { BinaryFile } from './binary-file.js';
import { FormatError } from './format-error.js';
import { readGgufHeader, type GgufHeader, type GgufTensor } from './gguf-header.js';

/** llama.cpp's name for part N of M, counted from 1. */
const partName = /^(.*-)(\d{5})(-of-)(\d{5})(\.gguf)$/;

/** The first part of a model in several files, when `path` is one of its parts; else `path`. */
export const firstPart = (path: string): string => path.replace(partName, '$100001$3$4$5');

/** A tensor and the file that holds it. */
export interface PlacedTensor extends GgufTensor {
  file: BinaryFile;
}

/** A GGUF in one file or in several. The metadata are the first part's. */
export interface GgufParts {
  files: BinaryFile[];
  header: Pick<GgufHeader, 'metadata'> & { tensors: Map<string, PlacedTensor> };
}

/** Opens all parts of a GGUF and reads their headers. */
export async function openGgufParts(path: string, skip?: (key: string) => boolean): Promise<GgufParts> {
  const files: BinaryFile[] = [];
  try {
    const open = async (part: string): Promise<GgufHeader & { file: BinaryFile }> => {
      const file = await BinaryFile.open(part);
      files.push(file);
      return { file, ...(await readGgufHeader(file, skip)) };
    };
    const first = await open(path);
    const parts = [first];
    for (const name of otherParts(path, first)) parts.push(await open(name));
    const tensors = new Map<string, PlacedTensor>();
    for (const { file, tensors: own } of parts) {
      for (const [name, tensor] of own) {
        if (tensors.has(name)) throw new FormatError('bad_header', file.path, `tensor ${name}: expected once in the model, got another in ${tensors.get(name)!.file.path}`);
        tensors.set(name, { ...tensor, file });
      }
    }
    return { files, header: { metadata: first.metadata, tensors } };
  } catch (error) {
    for (const file of files) await file.close();
    throw error;
  }
}

function otherParts(path: string, { metadata }: GgufHeader): string[] {
  const count = metadata.get('split.count') ?? 1;
  if (count === 1 || count === 0) return [];
  const [, stem, , of, total, ending] = partName.exec(path) ?? [];
  if (typeof count !== 'number' || Number(total) !== count) {
    throw new FormatError('bad_header', path, `split.count: expected the number in the file's name (…-00001-of-0000N.gguf), got ${String(count)}`);
  }
  const number = metadata.get('split.no') ?? 0;
  if (number !== 0) throw new FormatError('bad_header', path, `split.no: expected 0, the part with the metadata, got ${String(number)}`);
  return Array.from({ length: count - 1 }, (_, i) => `${stem}${String(i + 2).padStart(5, '0')}${of}${total}${ending}`);
}
