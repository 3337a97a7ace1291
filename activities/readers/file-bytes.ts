import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { PassThrough, type Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { Decompress } from 'fzstd';
import unbzip2 from 'unbzip2-stream';
import { badDataset, type DatasetFile } from './dataset-file.js';

/** How compressed files begin: bzip2's header is followed by the mark of its first block, or of the end of an empty file. */
const magics: readonly { kind: keyof typeof decompressors; pattern: RegExp }[] = [
  { kind: 'gzip', pattern: /^1f8b08/ },
  { kind: 'Zstandard', pattern: /^28b52ffd/ },
  { kind: 'bzip2', pattern: /^425a683[1-9](?:314159265359|177245385090)/ },
];

type Chunks = AsyncIterable<Buffer>;

const decompressors = {
  gzip: (source: Readable): Chunks => through(source, createGunzip()),
  bzip2: (source: Readable): Chunks => through(source, unbzip2()),
  Zstandard: zstd,
} as const;

/** The bytes of a file in pieces, decompressed where it is compressed: that shows in how it begins, whatever its name. */
export async function* fileBytes(file: DatasetFile): AsyncGenerator<Buffer> {
  const start = await beginning(file.path);
  const kind = magics.find(({ pattern }) => pattern.test(start))?.kind;
  const source = createReadStream(file.path, { highWaterMark: 1 << 18 });
  try {
    if (kind === undefined) yield* source as Chunks;
    else yield* explained(decompressors[kind](source), (error) => (error === source.errored ? error : badDataset(file, '', `expected ${kind} data, got a mistake in it: ${error.message}`)));
  } finally {
    source.destroy();
  }
}

async function beginning(path: string): Promise<string> {
  const handle = await open(path);
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(10), 0, 10, 0);
    return buffer.subarray(0, bytesRead).toString('hex');
  } finally {
    await handle.close();
  }
}

async function* explained(chunks: Chunks, explain: (error: Error) => Error): AsyncGenerator<Buffer> {
  const iterator = chunks[Symbol.asyncIterator]();
  try {
    for (;;) {
      const next = await iterator.next().catch((error: Error) => Promise.reject(explain(error)));
      if (next.done) return;
      yield next.value;
    }
  } finally {
    await iterator.return?.();
  }
}

/** What comes out of a transforming stream, old-style ones among them. */
function through(source: Readable, stream: NodeJS.ReadWriteStream): Chunks {
  const result = new PassThrough();
  for (const part of [source, stream]) part.on('error', (error: Error) => result.destroy(error));
  source.pipe(stream).pipe(result);
  return result;
}

async function* zstd(source: Readable): AsyncGenerator<Buffer> {
  const pieces: Buffer[] = [];
  const stream = new Decompress((piece) => void pieces.push(Buffer.from(piece)));
  const ready = (): Buffer[] => pieces.splice(0);
  for await (const chunk of source as Chunks) {
    stream.push(chunk);
    yield* ready();
  }
  stream.push(new Uint8Array(0), true);
  yield* ready();
}
