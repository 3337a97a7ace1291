import type { ArtifactRef } from '../contracts/artifact.js';

/** For transfers that may take long. */
export interface TransferOptions {
  /** Aborts the transfer; nothing is left behind. */
  signal?: AbortSignal;
  /** Called as bytes go by, at most once a chunk. `total` is the size of the whole object. */
  onProgress?: (done: number, total: number) => void;
}

/** What identifies an object's bytes. */
export type Digest = Pick<ArtifactRef, 'sha256' | 'bytes'>;

/** Bytes under a key, with the tag that `replace` compares. */
export interface StoredValue {
  bytes: Buffer;
  etag: string;
}

/**
 * Objects under one root. Two kinds of them: immutable ones named by their content (`put…`, `get…`) and small ones under a
 * key of the caller's choosing (`read`, `create`, `replace`), written conditionally, so that of several writers one wins.
 * Keys are `/`-separated names; a key must not be the beginning of another at a `/` (`a` and `a/b`).
 * Every failure is a StoreError.
 */
export interface ArtifactStore {
  /** `file:///directory` or `s3://bucket/prefix`, without a trailing slash. */
  readonly root: string;
  /** Stores a file under `objects/<2 hex>/<sha256>`. An object that is already there is left as it is. */
  putFile(path: string, mediaType: string, options?: TransferOptions): Promise<ArtifactRef>;
  putBytes(bytes: Uint8Array, mediaType: string): Promise<ArtifactRef>;
  /** Stores a file under a key. An object that already has these bytes is left as it is; one that has others is replaced. */
  putFileAt(key: string, path: string, mediaType: string, options?: TransferOptions): Promise<ArtifactRef>;
  /** @throws `missing`, or `corrupt` when the bytes do not have the reference's sha256. */
  getBytes(ref: ArtifactRef): Promise<Buffer>;
  /** Streams to a temporary file beside `path`, verifies sha256, renames. @throws as getBytes; `path` is then untouched. */
  getFile(ref: ArtifactRef, path: string, options?: TransferOptions): Promise<void>;
  /** Size and tag of an object, undefined when there is none. */
  stat(key: string): Promise<{ bytes: number; etag: string } | undefined>;
  /** Whether a key has these bytes. */
  holds(key: string, digest: Digest): Promise<boolean>;
  /** Fetches an object whose digest is not known yet, as getFile does, and says what it is. @throws `missing` */
  download(key: string, path: string, options?: TransferOptions): Promise<Digest>;
  /** undefined when there is no such key. */
  read(key: string): Promise<StoredValue | undefined>;
  /** False, and nothing is written, when the key exists. */
  create(key: string, bytes: Uint8Array): Promise<boolean>;
  /** Compare-and-swap: false when the key's etag is another one. `null`: the key must not exist. */
  replace(key: string, bytes: Uint8Array, etag: string | null): Promise<boolean>;
  /** Sorted keys that begin with `prefix`; `''` lists all. */
  list(prefix: string): Promise<string[]>;
  /** Removing a missing key is no error. */
  remove(key: string): Promise<void>;
  /** Settles in seconds. @throws when the storage is unreachable, the bucket missing, or writing denied. Leaves nothing behind. */
  check(): Promise<void>;
}
