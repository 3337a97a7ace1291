import { createHash, randomUUID } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { rename, rm, stat } from 'node:fs/promises';
import { type Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { ArtifactRef } from '../contracts/artifact.js';
import type { Digest, TransferOptions } from './artifact-store.js';
import { StoreError } from './store-error.js';

export const sha256 = (bytes: Uint8Array | string): string => createHash('sha256').update(bytes).digest('hex');

/** Passes bytes through and counts and hashes them. */
export class Meter extends Transform {
  readonly #hash = createHash('sha256');
  bytes = 0;
  constructor(readonly onProgress?: (bytes: number) => void) {
    super();
  }
  override _transform(chunk: Buffer, _encoding: string, done: (error: null, chunk: Buffer) => void): void {
    this.#hash.update(chunk);
    this.bytes += chunk.length;
    this.onProgress?.(this.bytes);
    done(null, chunk);
  }
  /** Once, after the stream has ended. */
  sha256(): string {
    return this.#hash.digest('hex');
  }
}

/** Size and sha256 of a file. @throws `missing` */
export async function digestFile(path: string, options: TransferOptions = {}): Promise<Digest> {
  const { size } = await stat(path).catch((cause: unknown) => {
    throw new StoreError('missing', path, 'no such file', { cause });
  });
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20, signal: options.signal }) as AsyncIterable<Buffer>) {
    hash.update(chunk);
    bytes += chunk.length;
    options.onProgress?.(bytes, size);
  }
  return { sha256: hash.digest('hex'), bytes };
}

/** @throws `corrupt` when size or digest differ from the reference's. */
export function verify(ref: Pick<ArtifactRef, 'uri' | 'sha256' | 'bytes'>, found: Digest): void {
  if (found.bytes !== ref.bytes) throw new StoreError('corrupt', ref.uri, `expected ${ref.bytes} bytes, got ${found.bytes}; the object is damaged`);
  if (found.sha256 !== ref.sha256) throw new StoreError('corrupt', ref.uri, `expected sha256 ${ref.sha256}, got ${found.sha256}; the object is damaged`);
}

/** Writes a stream to `path`, whose directory exists, by way of a temporary file beside it; the file appears whole and verified, or not at all. */
export async function receiveFile(source: Readable, ref: ArtifactRef, path: string, options: TransferOptions = {}): Promise<void> {
  await receive(source, path, ref.bytes, options, (found) => verify(ref, found));
}

/** As receiveFile for a stream of unknown content. @param total its size, for progress */
export async function receive(
  source: Readable, path: string, total: number, { signal, onProgress }: TransferOptions = {}, accept: (found: Digest) => void = () => {},
): Promise<Digest> {
  const temporary = `${path}.${randomUUID()}.part`;
  const meter = new Meter((bytes) => onProgress?.(bytes, total));
  try {
    await pipeline(source, meter, createWriteStream(temporary, { flags: 'wx' }), { signal });
    const found = { bytes: meter.bytes, sha256: meter.sha256() };
    accept(found);
    await rename(temporary, path);
    return found;
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}
