import { randomUUID } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { link, mkdir, open, readdir, readFile, rename, rm, rmdir, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { pathToFileURL } from 'node:url';
import type { ArtifactRef } from '../contracts/artifact.js';
import type { ArtifactStore, Digest, StoredValue, TransferOptions } from './artifact-store.js';
import { digestFile, Meter, receive, receiveFile, sha256, verify } from './digest.js';
import { withLock } from './file-lock.js';
import { checkKey, keyOfRef, objectKey } from './keys.js';
import { StoreError } from './store-error.js';

/** Half-written files of processes that were killed are swept after this. */
const abandonedAfterMs = 24 * 3600 * 1000;

/**
 * A directory as artifact store. Files are written to `.tmp/` and appear under their key whole, by `link` (exclusive) or
 * `rename`; `replace` and `remove` take a lock in `.locks/` that works across processes.
 */
export class FileStore implements ArtifactStore {
  readonly root: string;
  readonly #directory: string;
  constructor(directory: string) {
    this.#directory = resolve(directory);
    this.root = pathToFileURL(this.#directory).href;
  }

  async putFile(path: string, mediaType: string, options: TransferOptions = {}): Promise<ArtifactRef> {
    const digest = await digestFile(path, { signal: options.signal });
    const ref = this.#ref(objectKey(digest.sha256), digest, mediaType);
    if ((await sizeOf(this.#path(objectKey(digest.sha256)))) !== digest.bytes) await this.#copyIn(path, ref, options);
    return ref;
  }

  async putBytes(bytes: Uint8Array, mediaType: string): Promise<ArtifactRef> {
    const digest = { sha256: sha256(bytes), bytes: bytes.length };
    const key = objectKey(digest.sha256);
    if ((await sizeOf(this.#path(key))) !== digest.bytes) await this.#write(key, bytes, rename);
    return this.#ref(key, digest, mediaType);
  }

  async putFileAt(key: string, path: string, mediaType: string, options: TransferOptions = {}): Promise<ArtifactRef> {
    const digest = await digestFile(path, { signal: options.signal });
    const ref = this.#ref(key, digest, mediaType);
    if (!(await this.holds(key, digest))) await this.#copyIn(path, ref, options);
    return ref;
  }

  async getBytes(ref: ArtifactRef): Promise<Buffer> {
    const bytes = await readFile(this.#pathOf(ref)).catch((error: unknown) => Promise.reject(translate(error, ref.uri)));
    verify(ref, { bytes: bytes.length, sha256: sha256(bytes) });
    return bytes;
  }

  async getFile(ref: ArtifactRef, path: string, options: TransferOptions = {}): Promise<void> {
    await mkdir(dirname(path), { recursive: true });
    await receiveFile(createReadStream(this.#pathOf(ref), { highWaterMark: 1 << 20 }), ref, path, options)
      .catch((error: unknown) => Promise.reject(translate(error, ref.uri)));
  }

  async stat(key: string): Promise<{ bytes: number; etag: string } | undefined> {
    const path = this.#path(key);
    if ((await sizeOf(path)) === undefined) return undefined;
    const { bytes, sha256: etag } = await digestFile(path);
    return { bytes, etag };
  }

  async holds(key: string, digest: Digest): Promise<boolean> {
    const path = this.#path(key);
    return (await sizeOf(path)) === digest.bytes && (await digestFile(path)).sha256 === digest.sha256;
  }

  async download(key: string, path: string, options: TransferOptions = {}): Promise<Digest> {
    const total = (await sizeOf(this.#path(key))) ?? 0;
    await mkdir(dirname(path), { recursive: true });
    return receive(createReadStream(this.#path(key), { highWaterMark: 1 << 20 }), path, total, options)
      .catch((error: unknown) => Promise.reject(translate(error, this.#uri(key))));
  }

  async read(key: string): Promise<StoredValue | undefined> {
    try {
      const bytes = await readFile(this.#path(key));
      return { bytes, etag: sha256(bytes) };
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw translate(error, this.#uri(key));
    }
  }

  async create(key: string, bytes: Uint8Array): Promise<boolean> {
    try {
      await this.#write(key, bytes, link);
      return true;
    } catch (error) {
      if (error instanceof StoreError && (error.cause as NodeJS.ErrnoException)?.code === 'EEXIST') return false;
      throw error;
    }
  }

  async replace(key: string, bytes: Uint8Array, etag: string | null): Promise<boolean> {
    if (etag === null) return this.create(key, bytes);
    return this.#locked(key, async () => {
      if ((await this.read(key))?.etag !== etag) return false;
      await this.#write(key, bytes, rename);
      return true;
    });
  }

  async list(prefix: string): Promise<string[]> {
    const start = prefix.slice(0, prefix.lastIndexOf('/') + 1);
    if (start !== '') checkKey(start.slice(0, -1));
    const keys: string[] = [];
    const walk = async (folder: string): Promise<void> => {
      const entries = await readdir(join(this.#directory, folder), { withFileTypes: true }).catch((error: unknown) => {
        if (isMissing(error)) return [];
        throw translate(error, this.root);
      });
      for (const entry of entries) {
        const key = folder + entry.name;
        if (entry.name.startsWith('.')) continue;
        if (entry.isDirectory() && (`${key}/`.startsWith(prefix) || prefix.startsWith(`${key}/`))) await walk(`${key}/`);
        if (entry.isFile() && key.startsWith(prefix)) keys.push(key);
      }
    };
    await walk(start);
    return keys.sort();
  }

  async remove(key: string): Promise<void> {
    const path = this.#path(key);
    if ((await sizeOf(path)) === undefined) return;
    await this.#locked(key, () => rm(path, { force: true }));
  }

  async check(): Promise<void> {
    const directory = join(this.#directory, '.tmp');
    try {
      const created = await mkdir(directory, { recursive: true });
      const probe = join(directory, randomUUID());
      await (await open(probe, 'wx')).close();
      await rm(probe);
      for (const name of await readdir(directory)) {
        const path = join(directory, name);
        const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Infinity }));
        if (Date.now() - mtimeMs > abandonedAfterMs) await rm(path, { force: true });
      }
      if (created !== undefined) await removeEmpty(directory, created);
    } catch (error) {
      throw translate(error, this.root);
    }
  }

  #path(key: string): string {
    return join(this.#directory, ...checkKey(key).split('/'));
  }

  #uri(key: string): string {
    return pathToFileURL(this.#path(key)).href;
  }

  #pathOf(ref: ArtifactRef): string {
    return this.#path(decodeURIComponent(keyOfRef(this.root, ref)));
  }

  #ref(key: string, digest: Digest, mediaType: string): ArtifactRef {
    return { uri: this.#uri(key), ...digest, mediaType };
  }

  #locked<T>(key: string, body: () => Promise<T>): Promise<T> {
    return withLock(join(this.#directory, '.locks', sha256(key).slice(0, 32)), body);
  }

  /** Copies a file to where `ref` says, verified on the way. */
  async #copyIn(path: string, ref: ArtifactRef, { signal, onProgress }: TransferOptions): Promise<void> {
    await this.#place(this.#pathOf(ref), rename, async (temporary) => {
      const meter = new Meter((bytes) => onProgress?.(bytes, ref.bytes));
      await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), meter, createWriteStream(temporary, { flags: 'wx', flush: true }), { signal });
      verify({ ...ref, uri: path }, { bytes: meter.bytes, sha256: meter.sha256() });
    });
  }

  async #write(key: string, bytes: Uint8Array, appear: (from: string, to: string) => Promise<void>): Promise<void> {
    await this.#place(this.#path(key), appear, async (temporary) => {
      const file = await open(temporary, 'wx');
      await file.writeFile(bytes).then(() => file.sync()).finally(() => file.close());
    });
  }

  /** Fills a temporary file, then lets it appear at `target`. */
  async #place(target: string, appear: (from: string, to: string) => Promise<void>, fill: (temporary: string) => Promise<void>): Promise<void> {
    const temporary = join(this.#directory, '.tmp', randomUUID());
    try {
      await mkdir(dirname(temporary), { recursive: true });
      await fill(temporary);
      await mkdir(dirname(target), { recursive: true });
      await appear(temporary, target);
    } catch (error) {
      throw translate(error, pathToFileURL(target).href);
    } finally {
      await rm(temporary, { force: true });
    }
  }
}

/** Removes a directory and its parents up to `last` as long as they are empty. */
async function removeEmpty(directory: string, last: string): Promise<void> {
  for (let folder = directory; folder.startsWith(last); folder = dirname(folder)) {
    const removed = await rmdir(folder).then(() => true, () => false);
    if (!removed) return;
  }
}

const isMissing = (error: unknown): boolean => ['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '');

/** Size of a file, undefined when there is none. */
const sizeOf = (path: string): Promise<number | undefined> => stat(path).then((found) => (found.isFile() ? found.size : undefined), () => undefined);

/** A file system's error in the store's words. StoreErrors and aborts pass. */
function translate(error: unknown, subject: string): unknown {
  const code = (error as NodeJS.ErrnoException).code;
  if (error instanceof StoreError || (error as Error).name === 'AbortError') return error;
  if (isMissing(error)) return new StoreError('missing', subject, 'no such file', { cause: error });
  if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS') return new StoreError('denied', subject, `permission denied (${code})`, { cause: error });
  return new StoreError('failed', subject, (error as Error).message, { cause: error });
}
