import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ListMultipartUploadsCommand, ListObjectsV2Command } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createPublishStage } from '../../activities/publish.js';
import { runStage } from '../../activities/stage.js';
import type { NamedArtifact } from '../../contracts/artifact.js';
import type { PublishOutput } from '../../contracts/stages.js';

type Published = Required<Pick<PublishOutput, 'manifest' | 'latest'>>;
import type { ArtifactStore } from '../../store/artifact-store.js';
import { sha256 } from '../../store/digest.js';
import { openStore } from '../../store/open-store.js';
import type { S3Options } from '../../store/s3-store.js';
import { describeS3, newBucket, s3Client, s3Options } from '../kit/s3.js';
import { stageKit } from '../kit/stage.js';

interface Destination {
  uri: string;
  s3?: S3Options;
  /** Every object with what changes when it is written again. */
  inventory(): Promise<string[]>;
}

let scratch: string;
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'temper-publish-'));
});
afterAll(() => rm(scratch, { recursive: true, force: true }));

describe('publish to a directory', () => suite(async () => {
  const directory = await mkdtemp(join(scratch, 'published-'));
  return {
    uri: `file:${directory}`,
    async inventory() {
      const files = (await readdir(directory, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile() && !entry.parentPath.includes('/.'));
      const found = await Promise.all(files.map(async ({ parentPath, name }) => ({ path: join(parentPath, name), ...(await stat(join(parentPath, name), { bigint: true })) })));
      return found.map(({ path, ino, mtimeNs }) => `${path} ${ino} ${mtimeNs}`).sort();
    },
  };
}));

describeS3('publish to S3', (s3) => {
  suite(async () => {
    const bucket = await newBucket(s3);
    return {
      uri: `s3://${bucket}/models`,
      s3: { ...s3Options(s3), partSize: 5 << 20 },
      async inventory() {
        expect((await s3Client(s3).send(new ListMultipartUploadsCommand({ Bucket: bucket }))).Uploads ?? []).toEqual([]);
        const { Contents = [] } = await s3Client(s3).send(new ListObjectsV2Command({ Bucket: bucket }));
        return Contents.map(({ Key, ETag, LastModified }) => `${Key} ${ETag} ${LastModified?.toISOString()}`).sort();
      },
    };
  });
});

function suite(open: () => Promise<Destination>): void {
  let destination: Destination;
  let target: ArtifactStore;
  let kit: Awaited<ReturnType<typeof stageKit>>;
  const weights = randomBytes(12_000_000);

  beforeAll(async () => {
    destination = await open();
    target = openStore(destination.uri, { s3: destination.s3 });
    kit = await stageKit();
  });
  afterAll(() => kit.remove());

  const artifact = async (name: string, content: Buffer | string): Promise<NamedArtifact> => {
    const path = join(scratch, sha256(content));
    await writeFile(path, content);
    return { name, ...(await kit.context.store.putFile(path, name.endsWith('.json') ? 'application/json' : 'application/octet-stream')) };
  };
  const files = async (text: string): Promise<NamedArtifact[]> => [
    await artifact('merged/model.safetensors', weights),
    await artifact('adapter/adapter_config.json', text),
    await artifact('report/report.html', `<html>${text}</html>`),
  ];
  const publish = async (input: NamedArtifact[], name = 'run'): Promise<Published> => {
    const services = { ...kit.context, workRoot: kit.directory };
    return (await runStage(createPublishStage(destination.s3), { input: { uri: destination.uri, name, files: input } }, services)).output as Published;
  };
  const json = async (key: string): Promise<Record<string, unknown>> => JSON.parse((await target.read(key))!.bytes.toString()) as Record<string, unknown>;

  it('puts every file under its name, with a manifest that digests them and a latest that leads to it', async () => {
    const input = await files('{}');
    const { manifest, latest } = await publish(input);
    expect(latest).toBe(`${target.root}/run/latest.json`);
    const pointer = await json('run/latest.json');
    expect(pointer).toEqual({ name: 'run', version: expect.stringMatching(/^[0-9a-f]{16}$/), manifest: `${String(pointer.version)}/manifest.json`, manifestSha256: manifest.sha256 });
    const listed = JSON.parse((await target.getBytes(manifest)).toString()) as { version: string; files: NamedArtifact[] };
    expect(listed.files.map(({ name }) => name)).toEqual(['adapter/adapter_config.json', 'merged/model.safetensors', 'report/report.html']);
    for (const { name, sha256: digest, bytes } of listed.files) {
      expect(await target.holds(`run/${listed.version}/${name}`, { sha256: digest, bytes }), name).toBe(true);
      await target.getFile({ uri: `${target.root}/run/${listed.version}/${name}`, sha256: digest, bytes, mediaType: '' }, join(scratch, 'fetched'));
    }
  });

  it('changes nothing when the same is published again, in whatever order', async () => {
    const input = await files('same');
    const first = await publish(input, 'again');
    const before = await destination.inventory();
    expect(await publish([...input].reverse(), 'again')).toEqual(first);
    expect(await destination.inventory()).toEqual(before);
  });

  it('keeps older versions and moves latest to a new one', async () => {
    const first = await publish(await files('v1'), 'versions');
    const second = await publish(await files('v2'), 'versions');
    expect(second.manifest.uri).not.toBe(first.manifest.uri);
    expect((await json('versions/latest.json')).manifestSha256).toBe(second.manifest.sha256);
    await target.getBytes(first.manifest);
  });

  it('repairs a version that lost a file', async () => {
    const input = await files('repair');
    const { manifest } = await publish(input, 'repair');
    const version = manifest.uri.split('/').at(-2)!;
    await target.remove(`repair/${version}/report/report.html`);
    await publish(input, 'repair');
    expect(await target.read(`repair/${version}/report/report.html`)).toBeDefined();
  });

  it('lets publishers of different versions race: latest is one of them, whole, and none fails', async () => {
    const inputs = await Promise.all([1, 2, 3, 4].map(async (n) => [await artifact('report/report.md', `version ${n}`)]));
    const outputs = await Promise.all(inputs.map((input) => publish(input, 'race')));
    expect(new Set(outputs.map(({ manifest }) => manifest.uri)).size).toBe(4);
    expect(outputs.map(({ manifest }) => manifest.sha256)).toContain((await json('race/latest.json')).manifestSha256);
    for (const { manifest } of outputs) await target.getBytes(manifest);
  });

  it('stops when it is cancelled, and latest does not move', async () => {
    const controller = new AbortController();
    const input = await files('cancelled');
    const services = { ...kit.context, workRoot: kit.directory, signal: controller.signal, progress: () => controller.abort() };
    await expect(runStage(createPublishStage(destination.s3), { input: { uri: destination.uri, name: 'cancelled', files: input } }, services)).rejects.toThrow(/abort/i);
    expect(await target.read('cancelled/latest.json')).toBeUndefined();
    await destination.inventory();
  });

  it('refuses a name that is there twice', async () => {
    const file = await artifact('report/report.md', 'x');
    await expect(publish([file, file])).rejects.toThrow("publish.files[1]: expected every name once, got 'report/report.md' twice");
  });
}
