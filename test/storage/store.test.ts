import { DeleteObjectCommand, ListMultipartUploadsCommand, ListObjectsV2Command, PutObjectCommand } from '@aws-sdk/client-s3';
import { fork } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ArtifactStore } from '../../store/artifact-store.js';
import { sha256 } from '../../store/digest.js';
import { openStore } from '../../store/open-store.js';
import { StoreError } from '../../store/store-error.js';
import { describeS3, newBucket, s3Client, s3Options } from '../kit/s3.js';

const text = (value: string): Buffer => Buffer.from(value);
/** 40 MB that repeat no part, so that swapped parts would show. */
const bigSize = 40_000_000;

let scratch: string;
let bigFile: string;
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'temper-store-'));
  bigFile = join(scratch, 'big.bin');
  await writeFile(bigFile, randomBytes(bigSize));
});
afterAll(() => rm(scratch, { recursive: true, force: true }));

interface Subject {
  store: ArtifactStore;
  /** Another store object on the same root, as another process has it. */
  again(): ArtifactStore;
  /** Changes an object's bytes behind the store's back. */
  damage(key: string, bytes: Uint8Array): Promise<void>;
  /** How many unfinished uploads or temporary files there are. */
  unfinished(): Promise<number>;
}

describe('file store', () => {
  conformance(async () => {
    const directory = join(scratch, 'root with space');
    return {
      store: openStore('file:root with space', { base: scratch }),
      again: () => openStore('file:root with space', { base: scratch }),
      damage: (key, bytes) => writeFile(join(directory, key), bytes),
      unfinished: async () => (await readdir(join(directory, '.tmp')).catch(() => [])).length,
    };
  });

  it('lets exactly one of several processes win each round of a compare-and-swap', async () => {
    const store = openStore(`file:${join(scratch, 'processes')}`);
    await store.create('counter', text('0'));
    const worker = fileURLToPath(new URL('../kit/count-in-store.ts', import.meta.url));
    const codes = await Promise.all([1, 2, 3].map(() => new Promise((resolve) => {
      fork(worker, [store.root, '30'], { execArgv: ['--import', 'tsx'] }).once('exit', resolve);
    })));
    expect(codes).toEqual([0, 0, 0]);
    expect((await store.read('counter'))?.bytes.toString()).toBe('90');
  });

  it('goes on after the death of a process that held a lock', async () => {
    const store = openStore(`file:${join(scratch, 'dead')}`);
    await store.create('key', text('1'));
    const locks = join(scratch, 'dead', '.locks', sha256('key').slice(0, 32));
    await mkdir(locks, { recursive: true });
    const child = fork(fileURLToPath(new URL('../kit/hold-lock.ts', import.meta.url)), [locks], { execArgv: ['--import', 'tsx'] });
    await new Promise((resolve) => child.once('message', resolve));
    child.kill('SIGKILL');
    await new Promise((resolve) => child.once('exit', resolve));
    expect(await store.replace('key', text('2'), (await store.read('key'))!.etag)).toBe(true);
    expect((await readdir(locks)).length).toBe(1);
  });

  it('check leaves nothing behind', async () => {
    await openStore(`file:${join(scratch, 'new', 'deep', 'root')}`).check();
    expect(await readdir(scratch)).not.toContain('new');
  });

  it('check names a directory that cannot be made', async () => {
    await writeFile(join(scratch, 'a-file'), '');
    await expect(openStore(`file:${join(scratch, 'a-file', 'root')}`).check()).rejects.toMatchObject({ name: 'StoreError', subject: expect.stringContaining('a-file/root') });
  });
});

describeS3('S3 store', (s3) => {
  const options = s3Options(s3);
  const client = s3Client(s3);
  const multipart = { ...options, partSize: 5 << 20, abandonedAfterMs: 0 };

  conformance(async () => {
    const bucket = await newBucket(s3);
    const uri = `s3://${bucket}/some/prefix`;
    const uploads = async (): Promise<number> => (await client.send(new ListMultipartUploadsCommand({ Bucket: bucket }))).Uploads?.length ?? 0;
    return {
      store: openStore(uri, { s3: multipart }),
      again: () => openStore(uri, { s3: multipart }),
      damage: async (key, bytes) => {
        const Key = `some/prefix/${key}`;
        await client.send(new DeleteObjectCommand({ Bucket: bucket, Key }));
        await client.send(new PutObjectCommand({ Bucket: bucket, Key, Body: bytes }));
      },
      unfinished: uploads,
    };
  });

  it('takes endpoint and credentials from the environment', async () => {
    const bucket = await newBucket(s3);
    const environment = { AWS_ENDPOINT_URL_S3: s3.endpoint, AWS_ACCESS_KEY_ID: s3.accessKeyId, AWS_SECRET_ACCESS_KEY: s3.secretAccessKey };
    const before = Object.fromEntries(Object.keys(environment).map((name) => [name, process.env[name]]));
    Object.assign(process.env, environment);
    try {
      await openStore(`s3://${bucket}`).check();
    } finally {
      for (const [name, value] of Object.entries(before)) if (value === undefined) delete process.env[name]; else process.env[name] = value;
    }
  });

  it('aborts what a killed process left of an upload of the same file', async () => {
    const bucket = await newBucket(s3);
    const uploads = async () => (await client.send(new ListMultipartUploadsCommand({ Bucket: bucket }))).Uploads ?? [];
    const child = fork(fileURLToPath(new URL('../kit/upload-then-die.ts', import.meta.url)), [bucket, bigFile, JSON.stringify(multipart)], { execArgv: ['--import', 'tsx'] });
    await new Promise((resolve) => child.once('exit', resolve));
    expect((await uploads()).length).toBe(1);
    await openStore(`s3://${bucket}`, { s3: multipart }).putFileAt('big', bigFile, 'application/octet-stream');
    expect(await uploads()).toEqual([]);
  });

  it('check leaves nothing in the bucket', async () => {
    const bucket = await newBucket(s3);
    await openStore(`s3://${bucket}/p`, { s3: options }).check();
    expect((await client.send(new ListObjectsV2Command({ Bucket: bucket }))).KeyCount).toBe(0);
  });

  it.each([
    ['a bucket that does not exist', { }, 'no_bucket', 's3://temper-no-such-bucket/x: the bucket temper-no-such-bucket does not exist'],
    ['a wrong secret', { credentials: { accessKeyId: s3.accessKeyId, secretAccessKey: 'wrong' } }, 'denied', 's3://temper-no-such-bucket/x: access denied (SignatureDoesNotMatch'],
    ['an unknown key', { credentials: { accessKeyId: 'nobody', secretAccessKey: 'wrong' } }, 'denied', 's3://temper-no-such-bucket/x: access denied (XAdminUserNotFound'],
    ['an endpoint where nobody listens', { endpoint: 'http://127.0.0.1:9' }, 'unreachable', 's3://temper-no-such-bucket/x: no answer from http://127.0.0.1:9 (ECONNREFUSED)'],
  ])('check names %s', async (_, wrong, code, message) => {
    const error = await openStore('s3://temper-no-such-bucket/x', { s3: { ...options, ...wrong } }).check().catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(StoreError);
    expect((error as StoreError).code).toBe(code);
    expect((error as StoreError).message).toContain(message);
  });
});

it('openStore names a URI that it cannot use', () => {
  expect(() => openStore('gs://bucket')).toThrow('gs://bucket: expected a URI of the scheme file: or s3:, got gs:');
  expect(() => openStore('results')).toThrow('results: expected a URI of the scheme file: or s3:, got no scheme');
  expect(() => openStore('s3:///key')).toThrow('s3:///key: expected s3://bucket or s3://bucket/prefix');
});

/** What every store does. */
function conformance(open: () => Promise<Subject>): void {
  let subject: Subject;
  let store: ArtifactStore;
  beforeAll(async () => {
    subject = await open();
    store = subject.store;
  });

  it('check passes and is repeatable', async () => {
    await store.check();
    await store.check();
    expect(await store.list('')).toEqual([]);
  });

  it('names objects by their content', async () => {
    const ref = await store.putBytes(text('hello'), 'text/plain');
    expect(ref).toEqual({ uri: `${store.root}/objects/2c/${sha256('hello')}`, sha256: sha256('hello'), bytes: 5, mediaType: 'text/plain' });
    expect((await store.getBytes(ref)).toString()).toBe('hello');
    expect(await subject.again().getBytes(ref)).toEqual(text('hello'));
  });

  it('stores the same bytes once, from memory or a file', async () => {
    const file = join(scratch, 'hello.txt');
    await writeFile(file, 'hello');
    expect(await store.putFile(file, 'text/plain')).toEqual(await store.putBytes(text('hello'), 'text/plain'));
    expect(await store.list('objects/2c/')).toEqual([`objects/2c/${sha256('hello')}`]);
  });

  it('stores nothing and everything: zero bytes', async () => {
    const ref = await store.putBytes(new Uint8Array(), 'text/plain');
    expect((await store.getBytes(ref)).length).toBe(0);
    const file = join(scratch, 'empty');
    await writeFile(file, '');
    expect((await store.putFile(file, 'text/plain')).sha256).toBe(ref.sha256);
  });

  it('carries a file of 40 MB both ways, reporting progress', async () => {
    const seen: number[] = [];
    const ref = await store.putFile(bigFile, 'application/octet-stream', { onProgress: (done, total) => (expect(total).toBe(bigSize), seen.push(done)) });
    expect(ref.bytes).toBe(bigSize);
    expect(seen.length).toBeGreaterThan(3);
    expect(seen.at(-1)).toBe(bigSize);
    const copy = join(scratch, 'copies', 'big.bin');
    await store.getFile(ref, copy);
    expect((await readFile(copy)).equals(await readFile(bigFile))).toBe(true);
    expect(await subject.unfinished()).toBe(0);
  });

  it('leaves nothing of an aborted upload', async () => {
    const controller = new AbortController();
    const put = store.putFileAt('aborted', bigFile, 'application/octet-stream', { signal: controller.signal, onProgress: () => controller.abort(new Error('stop')) });
    await expect(put).rejects.toThrow(/stop|abort/i);
    expect(await subject.unfinished()).toBe(0);
    expect(await store.list('aborted')).toEqual([]);
  });

  it('leaves nothing of an aborted download', async () => {
    const ref = await store.putFile(bigFile, 'application/octet-stream');
    const controller = new AbortController();
    const directory = join(scratch, 'aborted-download');
    const get = store.getFile(ref, join(directory, 'big.bin'), { signal: controller.signal, onProgress: () => controller.abort() });
    await expect(get).rejects.toThrow(/abort/i);
    expect(await readdir(directory)).toEqual([]);
  });

  it('keeps a file under a key of its own; the same again changes nothing, another replaces it', async () => {
    const file = join(scratch, 'named');
    await writeFile(file, 'one');
    const first = await store.putFileAt('run/v1/model.txt', file, 'text/plain');
    expect(first).toEqual({ uri: `${store.root}/run/v1/model.txt`, sha256: sha256('one'), bytes: 3, mediaType: 'text/plain' });
    const { etag } = (await store.read('run/v1/model.txt'))!;
    expect(await store.putFileAt('run/v1/model.txt', file, 'text/plain')).toEqual(first);
    expect((await store.read('run/v1/model.txt'))!.etag).toBe(etag);
    await writeFile(file, 'two');
    const second = await store.putFileAt('run/v1/model.txt', file, 'text/plain');
    expect((await store.getBytes(second)).toString()).toBe('two');
    await expect(store.getBytes(first)).rejects.toMatchObject({ code: 'corrupt' });
  });

  it('refuses damaged objects by name, in memory and as a file', async () => {
    const ref = await store.putBytes(text('precious'), 'text/plain');
    await subject.damage(`objects/${ref.sha256.slice(0, 2)}/${ref.sha256}`, text('pretious'));
    const message = `${ref.uri}: expected sha256 ${ref.sha256}, got ${sha256('pretious')}`;
    await expect(store.getBytes(ref)).rejects.toThrow(message);
    const target = join(scratch, 'damaged', 'target');
    await expect(store.getFile(ref, target)).rejects.toThrow(message);
    expect(await readdir(join(scratch, 'damaged'))).toEqual([]);
  });

  it('refuses shortened objects, and heals them when they are stored again', async () => {
    const ref = await store.putBytes(text('complete'), 'text/plain');
    await subject.damage(`objects/${ref.sha256.slice(0, 2)}/${ref.sha256}`, text('comp'));
    await expect(store.getBytes(ref)).rejects.toThrow(`${ref.uri}: expected 8 bytes, got 4`);
    await store.putBytes(text('complete'), 'text/plain');
    expect((await store.getBytes(ref)).toString()).toBe('complete');
  });

  it('names a missing object', async () => {
    const digest = sha256('nowhere');
    const ref = { uri: `${store.root}/objects/${digest.slice(0, 2)}/${digest}`, sha256: digest, bytes: 7, mediaType: 'text/plain' };
    await expect(store.getBytes(ref)).rejects.toMatchObject({ code: 'missing', message: `${ref.uri}: no such ${ref.uri.startsWith('s3') ? 'object' : 'file'}` });
    await expect(store.getFile(ref, join(scratch, 'nowhere'))).rejects.toMatchObject({ code: 'missing' });
  });

  it('refuses references of another store', async () => {
    const ref = { uri: 's3://other/objects/x', sha256: sha256(''), bytes: 0, mediaType: 'text/plain' };
    await expect(store.getBytes(ref)).rejects.toThrow(`s3://other/objects/x: expected an object of the store ${store.root}`);
  });

  it('names a missing source file', async () => {
    await expect(store.putFile(join(scratch, 'no-such-file'), 'text/plain')).rejects.toThrow(/no-such-file: no such file/);
  });

  it('stats, compares and downloads an object whose digest nobody told', async () => {
    const file = join(scratch, 'unknown');
    await writeFile(file, 'unknown');
    await store.putFileAt('download/me', file, 'text/plain');
    const digest = { sha256: sha256('unknown'), bytes: 7 };
    expect(await store.stat('download/me')).toEqual({ bytes: 7, etag: (await store.read('download/me'))!.etag });
    expect(await store.stat('download/none')).toBeUndefined();
    expect(await store.holds('download/me', digest)).toBe(true);
    expect(await store.holds('download/me', { ...digest, sha256: sha256('another') })).toBe(false);
    expect(await store.holds('download/none', digest)).toBe(false);
    const target = join(scratch, 'downloads', 'unknown');
    expect(await store.download('download/me', target)).toEqual(digest);
    expect(await readFile(target, 'utf8')).toBe('unknown');
    await expect(store.download('download/none', target)).rejects.toMatchObject({ code: 'missing' });
  });

  it('read knows no missing key, create makes it, create again does not', async () => {
    expect(await store.read('a/b.json')).toBeUndefined();
    expect(await store.create('a/b.json', text('1'))).toBe(true);
    expect(await store.create('a/b.json', text('2'))).toBe(false);
    expect((await store.read('a/b.json'))!.bytes.toString()).toBe('1');
  });

  it('lets one of 20 racing writers create a key', async () => {
    const won = await Promise.all(Array.from({ length: 20 }, (_, writer) => (writer % 2 ? store : subject.again()).create('race/create', text(`writer ${writer}`))));
    expect(won.filter(Boolean).length).toBe(1);
    expect((await store.read('race/create'))!.bytes.toString()).toBe(`writer ${won.indexOf(true)}`);
  });

  it('lets one of 20 racing writers replace a value, and tells the others', async () => {
    await store.create('race/replace', text('start'));
    const { etag } = (await store.read('race/replace'))!;
    const won = await Promise.all(Array.from({ length: 20 }, (_, writer) => store.replace('race/replace', text(`writer ${writer}`), etag)));
    expect(won.filter(Boolean).length).toBe(1);
    expect((await store.read('race/replace'))!.bytes.toString()).toBe(`writer ${won.indexOf(true)}`);
  });

  it('replaces by etag only: neither an old one, nor null for an existing key, nor any for a missing one', async () => {
    await store.create('swap', text('1'));
    const { etag } = (await store.read('swap'))!;
    expect(await store.replace('swap', text('2'), null)).toBe(false);
    expect(await store.replace('swap', text('2'), etag)).toBe(true);
    expect(await store.replace('swap', text('3'), etag)).toBe(false);
    expect(await store.replace('swap-missing', text('3'), etag)).toBe(false);
    expect(await store.replace('swap-new', text('3'), null)).toBe(true);
    expect((await store.read('swap'))!.bytes.toString()).toBe('2');
    expect(await store.read('swap-missing')).toBeUndefined();
  });

  it('lists sorted keys by prefix, also in the middle of a name', async () => {
    for (const key of ['list/b', 'list/a/2', 'list/a/10', 'list/ab', 'listing']) await store.create(key, text(key));
    expect(await store.list('list/')).toEqual(['list/a/10', 'list/a/2', 'list/ab', 'list/b']);
    expect(await store.list('list/a')).toEqual(['list/a/10', 'list/a/2', 'list/ab']);
    expect(await store.list('list/a/')).toEqual(['list/a/10', 'list/a/2']);
    expect(await store.list('list/none/')).toEqual([]);
    expect(await store.list('list')).toContain('listing');
  });

  it('removes a key, and is content when there is none', async () => {
    await store.create('gone', text('x'));
    await store.remove('gone');
    await store.remove('gone');
    expect(await store.read('gone')).toBeUndefined();
    expect(await store.create('gone', text('y'))).toBe(true);
  });

  it.each(['', '/a', 'a//b', '../a', 'a/../b', 'a/.b', 'a\\b', 'a\nb'])('refuses the key %j', async (key) => {
    await expect(async () => store.read(key)).rejects.toMatchObject({ code: 'bad_uri' });
    await expect(async () => store.create(key, text(''))).rejects.toMatchObject({ code: 'bad_uri' });
  });

  it('never shows a half-written value to a reader', async () => {
    const values = ['a', 'b'].map((letter) => text(letter.repeat(500_000)));
    await store.create('whole', values[0]!);
    let writing = true;
    const reader = (async () => {
      while (writing) expect(new Set((await store.read('whole'))!.bytes.toString()).size).toBe(1);
    })();
    for (let turn = 1; turn < 10; turn++) expect(await store.replace('whole', values[turn % 2]!, (await store.read('whole'))!.etag)).toBe(true);
    writing = false;
    await reader;
  });

  it('keeps a file whole while it is downloaded onto an existing path', async () => {
    const path = join(scratch, 'existing');
    await writeFile(path, 'old');
    await store.getFile(await store.putBytes(text('new'), 'text/plain'), path);
    expect(await readFile(path, 'utf8')).toBe('new');
    expect((await stat(path)).size).toBe(3);
  });
}
