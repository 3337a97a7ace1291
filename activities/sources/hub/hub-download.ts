import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { HubApi, HubFile } from './hub-api.js';
import { HubUnreachableError, unreachable } from './hub-errors.js';
import type { HubRepositoryId } from './hub-uri.js';

/** Attempts in a row that bring nothing new before a download is given up. */
const fruitlessAttempts = 5;

const underWay = new Map<string, Promise<void>>();

/** One blob to fetch. */
export interface BlobRequest {
  id: HubRepositoryId;
  commit: string;
  file: HubFile;
  /** Where it shall be. What has arrived so far is beside it, in `<target>.incomplete`. */
  target: string;
  /** Bytes of it that are here. What this throws ends the download; what has arrived stays. */
  onProgress?: (bytes: number) => void;
}

/**
 * Fetches a blob, going on where an earlier attempt ended, and checks it against its etag.
 *
 * Two processes may do it at once: bytes are written at their own position, so both write the same, and the first to be done
 * moves the file into its place.
 * @throws HubUnreachableError when the connection fails again and again, or what arrives is not what the etag says
 */
export function downloadBlob(api: HubApi, request: BlobRequest): Promise<void> {
  const { target } = request;
  const running = underWay.get(target);
  if (running) return running;
  const download = fetchBlob(api, request).finally(() => underWay.delete(target));
  underWay.set(target, download);
  return download;
}

async function fetchBlob(api: HubApi, request: BlobRequest): Promise<void> {
  const { id, file, target } = request;
  const incomplete = `${target}.incomplete`;
  await mkdir(dirname(target), { recursive: true });
  let damaged = 0;
  for (let fruitless = 0; ; ) {
    const before = await sizeOf(incomplete);
    try {
      const found = await receive(api, request, incomplete);
      if (found === file.etag) break;
      await rm(incomplete, { force: true });
      if (++damaged === 2) throw new DamagedError(`${id.name}/${file.path}: expected bytes with the checksum ${file.etag}, got ${found}, twice`);
    } catch (error) {
      if (!(error instanceof HubUnreachableError) || error instanceof DamagedError) throw error;
      fruitless = (await sizeOf(incomplete)) > before ? 0 : fruitless + 1;
      if (fruitless === fruitlessAttempts) throw error;
      await sleep(250 * 2 ** fruitless);
    }
  }
  await rename(incomplete, target).catch(async (error: unknown) => {
    if ((await sizeOf(target)) !== file.bytes) throw error; // another process was done first
  });
}

class DamagedError extends HubUnreachableError {}

/** Brings what is missing. @returns the checksum of the whole file, of the kind that its etag is */
async function receive(api: HubApi, { id, commit, file, onProgress }: BlobRequest, path: string): Promise<string> {
  const hash = createHash(file.etag.length === 64 ? 'sha256' : 'sha1');
  if (file.etag.length !== 64) hash.update(`blob ${file.bytes}\0`); // git hashes a header first
  const handle = await open(path, 'a').then(async (made) => made.close().then(() => open(path, 'r+')));
  try {
    if ((await sizeOf(path)) > file.bytes) await handle.truncate(0);
    let position = await hashSoFar(path, hash);
    onProgress?.(position);
    if (position < file.bytes) {
      const response = await api.content(id, commit, file.path, position);
      if (position > 0 && !continues(response, position)) {
        await response.body?.cancel();
        await handle.truncate(0);
        throw new HubUnreachableError(`${id.name}/${file.path}: expected the bytes from ${position} on, got status ${response.status}`);
      }
      for await (const chunk of piecesOf(api, response)) {
        let written = 0;
        while (written < chunk.length) written += (await handle.write(chunk, written, chunk.length - written, position + written)).bytesWritten;
        hash.update(chunk);
        position += chunk.length;
        onProgress?.(Math.min(position, file.bytes));
      }
    }
    if (position < file.bytes) throw new HubUnreachableError(`${id.name}/${file.path}: expected ${file.bytes} bytes, got ${position}`);
    await handle.truncate(file.bytes);
    return hash.digest('hex');
  } finally {
    await handle.close();
  }
}

/** @returns the size of what is here already */
async function hashSoFar(path: string, hash: Hash): Promise<number> {
  const size = await sizeOf(path);
  if (size === 0) return 0;
  for await (const chunk of createReadStream(path, { end: size - 1, highWaterMark: 1 << 20 }) as AsyncIterable<Buffer>) hash.update(chunk);
  return size;
}

const continues = ({ status, headers }: Response, position: number): boolean => status === 206 && (headers.get('content-range') ?? '').startsWith(`bytes ${position}-`);

async function* piecesOf(api: HubApi, { body }: Response): AsyncGenerator<Uint8Array> {
  try {
    for await (const chunk of body ?? []) yield chunk as Uint8Array;
  } catch (error) {
    throw unreachable(api.settings, error);
  }
}

const sizeOf = (path: string): Promise<number> => stat(path).then(({ size }) => size, () => 0);
