import {
  AbortMultipartUploadCommand, DeleteObjectCommand, GetObjectCommand, HeadObjectCommand, type HeadObjectCommandOutput, ListMultipartUploadsCommand, ListObjectsV2Command,
  PutObjectCommand, S3Client, type S3ClientConfig,
} from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import { createReadStream } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Readable } from 'node:stream';
import { randomUUID } from 'node:crypto';
import type { ArtifactRef } from '../contracts/artifact.js';
import type { ArtifactStore, Digest, StoredValue, TransferOptions } from './artifact-store.js';
import { digestFile, Meter, receive, receiveFile, sha256, verify } from './digest.js';
import { checkKey, keyOfRef, objectKey } from './keys.js';
import { statusOf, translateS3 } from './s3-errors.js';
import { StoreError } from './store-error.js';

export interface S3Options {
  /** @default AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, else AWS itself */
  endpoint?: string;
  /** @default AWS_REGION or the profile's; us-east-1 with an endpoint of one's own */
  region?: string;
  /** Bucket in the path instead of the host name. @default TEMPER_S3_PATH_STYLE, else true exactly with an endpoint of one's own */
  forcePathStyle?: boolean;
  /** @default AWS's chain: environment, profile, web identity, container, instance */
  credentials?: S3ClientConfig['credentials'];
  /** Bytes a part; files above it go up as multipart. At least 5 MiB. @default 16 MiB, more for files of over 10,000 parts */
  partSize?: number;
  /** Multipart uploads of the same key older than this are taken for abandoned and aborted. @default 24 hours */
  abandonedAfterMs?: number;
}

const mebibyte = 1 << 20;
const maxParts = 10_000;

/** A bucket, or a prefix in one, as artifact store. Needs conditional writes (`If-None-Match`, `If-Match`) of the server. */
export class S3Store implements ArtifactStore {
  readonly root: string;
  readonly #client: S3Client;
  /** Gives up in seconds: for `check`. */
  readonly #impatient: S3Client;
  readonly #endpoint: string;

  constructor(readonly bucket: string, readonly prefix: string, private readonly options: S3Options = {}) {
    if (prefix !== '') checkKey(prefix);
    this.root = `s3://${bucket}${prefix === '' ? '' : `/${prefix}`}`;
    const endpoint = options.endpoint ?? process.env.AWS_ENDPOINT_URL_S3 ?? process.env.AWS_ENDPOINT_URL;
    const region = options.region ?? process.env.AWS_REGION ?? (endpoint && !process.env.AWS_PROFILE ? 'us-east-1' : undefined);
    const pathStyle = process.env.TEMPER_S3_PATH_STYLE;
    const config: S3ClientConfig = {
      ...(endpoint && { endpoint }),
      ...(region && { region }),
      ...(options.credentials && { credentials: options.credentials }),
      forcePathStyle: options.forcePathStyle ?? (pathStyle ? pathStyle === 'true' : endpoint !== undefined),
    };
    this.#client = new S3Client({ ...config, maxAttempts: 5, requestHandler: { connectionTimeout: 10_000, requestTimeout: 300_000 } });
    this.#impatient = new S3Client({ ...config, maxAttempts: 2, requestHandler: { connectionTimeout: 2_000, requestTimeout: 5_000, throwOnRequestTimeout: true } });
    this.#endpoint = endpoint ?? 'AWS';
  }

  async putFile(path: string, mediaType: string, options: TransferOptions = {}): Promise<ArtifactRef> {
    const digest = await digestFile(path, { signal: options.signal });
    return this.#upload(objectKey(digest.sha256), path, digest, mediaType, options);
  }

  async putFileAt(key: string, path: string, mediaType: string, options: TransferOptions = {}): Promise<ArtifactRef> {
    return this.#upload(key, path, await digestFile(path, { signal: options.signal }), mediaType, options);
  }

  async putBytes(bytes: Uint8Array, mediaType: string): Promise<ArtifactRef> {
    const digest = { sha256: sha256(bytes), bytes: bytes.length };
    const key = objectKey(digest.sha256);
    if (!(await this.holds(key, digest))) {
      await this.#send(key, (Key) => this.#client.send(new PutObjectCommand({
        Bucket: this.bucket, Key, Body: bytes, ContentType: mediaType, Metadata: { sha256: digest.sha256 },
      })));
    }
    return this.#ref(key, digest, mediaType);
  }

  async getBytes(ref: ArtifactRef): Promise<Buffer> {
    const bytes = await this.#send(keyOfRef(this.root, ref), async (Key) => {
      const { Body } = await this.#client.send(new GetObjectCommand({ Bucket: this.bucket, Key }));
      return Buffer.from(await Body!.transformToByteArray());
    });
    verify(ref, { bytes: bytes.length, sha256: sha256(bytes) });
    return bytes;
  }

  async getFile(ref: ArtifactRef, path: string, options: TransferOptions = {}): Promise<void> {
    await mkdir(dirname(path), { recursive: true });
    await this.#send(keyOfRef(this.root, ref), async (Key) => {
      const { Body } = await this.#client.send(new GetObjectCommand({ Bucket: this.bucket, Key }), { abortSignal: options.signal });
      await receiveFile(Body as Readable, ref, path, options);
    });
  }

  async stat(key: string): Promise<{ bytes: number; etag: string } | undefined> {
    const head = await this.#head(key);
    return head && { bytes: head.ContentLength!, etag: head.ETag! };
  }

  /** By size and by the digest that every upload of ours records. */
  async holds(key: string, digest: Digest): Promise<boolean> {
    const head = await this.#head(key);
    return head?.ContentLength === digest.bytes && head.Metadata?.sha256 === digest.sha256;
  }

  async download(key: string, path: string, options: TransferOptions = {}): Promise<Digest> {
    await mkdir(dirname(path), { recursive: true });
    return this.#send(key, async (Key) => {
      const { Body, ContentLength } = await this.#client.send(new GetObjectCommand({ Bucket: this.bucket, Key }), { abortSignal: options.signal });
      return receive(Body as Readable, path, ContentLength ?? 0, options);
    });
  }

  async read(key: string): Promise<StoredValue | undefined> {
    return this.#send(key, async (Key) => {
      const { Body, ETag } = await this.#client.send(new GetObjectCommand({ Bucket: this.bucket, Key }));
      return { bytes: Buffer.from(await Body!.transformToByteArray()), etag: ETag! };
    }).catch((error: unknown) => {
      if (error instanceof StoreError && error.code === 'missing') return undefined;
      throw error;
    });
  }

  create(key: string, bytes: Uint8Array): Promise<boolean> {
    return this.#conditionalPut(key, bytes, { IfNoneMatch: '*' });
  }

  replace(key: string, bytes: Uint8Array, etag: string | null): Promise<boolean> {
    return etag === null ? this.create(key, bytes) : this.#conditionalPut(key, bytes, { IfMatch: etag });
  }

  async list(prefix: string): Promise<string[]> {
    const start = this.#key('').length;
    const keys: string[] = [];
    let ContinuationToken: string | undefined;
    do {
      const page = await this.#sendAs(this.root, () => this.#client.send(new ListObjectsV2Command({ Bucket: this.bucket, Prefix: this.#key(prefix), ContinuationToken })));
      keys.push(...(page.Contents ?? []).map(({ Key }) => Key!.slice(start)));
      ContinuationToken = page.NextContinuationToken;
    } while (ContinuationToken);
    return keys.filter((key) => key !== '' && !key.endsWith('/')).sort();
  }

  async remove(key: string): Promise<void> {
    await this.#send(key, (Key) => this.#client.send(new DeleteObjectCommand({ Bucket: this.bucket, Key })));
  }

  async check(): Promise<void> {
    const probe = { Bucket: this.bucket, Key: this.#key(`temper-check-${randomUUID()}`) };
    await this.#sendAs(this.root, async () => {
      await this.#impatient.send(new ListObjectsV2Command({ Bucket: this.bucket, Prefix: this.#key(''), MaxKeys: 1 }));
      await this.#impatient.send(new PutObjectCommand({ ...probe, Body: '', ContentLength: 0 }));
      await this.#impatient.send(new DeleteObjectCommand(probe));
    });
  }

  /** The object's full key in the bucket. */
  #key(key: string): string {
    return this.prefix === '' ? key : `${this.prefix}/${key}`;
  }

  #ref(key: string, digest: Digest, mediaType: string): ArtifactRef {
    return { uri: `${this.root}/${key}`, ...digest, mediaType };
  }

  #send<T>(key: string, call: (fullKey: string) => Promise<T>): Promise<T> {
    return this.#sendAs(`${this.root}/${key}`, () => call(this.#key(checkKey(key))));
  }

  async #sendAs<T>(subject: string, call: () => Promise<T>): Promise<T> {
    try {
      return await call();
    } catch (error) {
      throw translateS3(error, subject, this.#endpoint);
    }
  }

  /** undefined when there is no such object; of a missing bucket too, since an answer to HEAD says no more. */
  async #head(key: string): Promise<HeadObjectCommandOutput | undefined> {
    return this.#send(key, (Key) => this.#client.send(new HeadObjectCommand({ Bucket: this.bucket, Key }))).catch((error: unknown) => {
      if (error instanceof StoreError && error.code === 'missing') return undefined;
      throw error;
    });
  }

  async #conditionalPut(key: string, bytes: Uint8Array, condition: { IfNoneMatch?: string; IfMatch?: string }): Promise<boolean> {
    return this.#send(key, async (Key) => {
      for (let attempt = 1; ; attempt++) {
        try {
          await this.#client.send(new PutObjectCommand({ Bucket: this.bucket, Key, Body: bytes, ...condition }));
          return true;
        } catch (error) {
          const status = statusOf(error);
          if (status === 412 || (condition.IfMatch && status === 404 && (error as Error).name !== 'NoSuchBucket')) return false;
          // 409: another conditional write to this key is under way; S3 asks to try again.
          if (status !== 409 || attempt === 10) throw error;
          await new Promise((resolve) => setTimeout(resolve, Math.random() * 50 * attempt));
        }
      }
    });
  }

  async #upload(key: string, path: string, digest: Digest, mediaType: string, { signal, onProgress }: TransferOptions): Promise<ArtifactRef> {
    const ref = this.#ref(key, digest, mediaType);
    if (await this.holds(key, digest)) return ref;
    const partSize = Math.max(this.options.partSize ?? 16 * mebibyte, Math.ceil(digest.bytes / maxParts));
    if (digest.bytes > partSize) await this.#abortAbandoned(key);
    await this.#send(key, async (Key) => {
      signal?.throwIfAborted();
      const meter = new Meter();
      const file = createReadStream(path, { highWaterMark: mebibyte });
      file.on('error', (error) => meter.destroy(error)).pipe(meter);
      const upload = new Upload({
        client: this.#client, partSize, queueSize: 4, // parts carry CRC32s, which the server checks
        params: { Bucket: this.bucket, Key, Body: meter, ContentType: mediaType, Metadata: { sha256: digest.sha256 } },
      });
      upload.on('httpUploadProgress', ({ loaded }) => onProgress?.(loaded ?? 0, digest.bytes));
      // Ending its source fails the upload, and it then aborts the multipart upload before it settles; upload.abort() settles first.
      const abort = (): void => void meter.destroy(signal?.reason instanceof Error ? signal.reason : new Error('aborted'));
      signal?.addEventListener('abort', abort, { once: true });
      try {
        await upload.done();
      } catch (error) {
        throw signal?.aborted ? signal.reason : error;
      } finally {
        signal?.removeEventListener('abort', abort);
        file.destroy();
      }
      try {
        verify({ ...ref, uri: path }, { bytes: meter.bytes, sha256: meter.sha256() });
      } catch (error) {
        await this.remove(key); // the file changed while it was being read
        throw error;
      }
    });
    return ref;
  }

  /** Uploads of this key that a killed process left behind. Best effort: listing them may not be permitted. */
  async #abortAbandoned(key: string): Promise<void> {
    const before = Date.now() - (this.options.abandonedAfterMs ?? 24 * 3600 * 1000);
    const Key = this.#key(key);
    const found = await this.#client.send(new ListMultipartUploadsCommand({ Bucket: this.bucket, Prefix: Key })).catch(() => undefined);
    for (const upload of found?.Uploads ?? []) {
      if (upload.Key !== Key || !(Number(upload.Initiated) < before)) continue;
      await this.#client.send(new AbortMultipartUploadCommand({ Bucket: this.bucket, Key, UploadId: upload.UploadId })).catch(() => undefined);
    }
  }
}
