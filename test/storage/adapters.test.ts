import { cpSync, mkdirSync, readdirSync, readFileSync, realpathSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { locateAdapter } from '../../activities/sources/adapters.js';
import { ModelCache } from '../../activities/sources/models.js';
import { readStartAdapter } from '../../activities/start-adapter.js';
import { sha256 } from '../../store/digest.js';
import { openStore } from '../../store/open-store.js';
import { startHub, type Hub } from '../kit/hub-server.js';
import { describeS3, newBucket, s3Options } from '../kit/s3.js';
import { temporaryDirectory } from '../kit/temporary.js';

const root = realpathSync(temporaryDirectory());
const golden = 'test/golden/model/adapter';
const names = ['adapter_config.json', 'adapter_model.safetensors'];
cpSync(golden, join(root, 'adapter'), { recursive: true });
cpSync(golden, join(root, 'nested/checkpoint-8'), { recursive: true });
writeFileSync(join(root, 'adapter', 'README.md'), '# An adapter');
mkdirSync(join(root, 'words'));
writeFileSync(join(root, 'words', 'README.md'), '# Words');

let hub: Hub;
beforeAll(async () => {
  hub = await startHub({ models: { 'tiny/adapter': join(root, 'adapter'), 'tiny/nested': join(root, 'nested'), 'tiny/words': join(root, 'words') }, datasets: {} });
});
afterAll(() => hub.close());

const machine = () => {
  const home = temporaryDirectory();
  return { dataRoots: [root], cacheDirectory: join(home, 'cache'), hub: { endpoint: hub.endpoint, cacheDirectory: join(home, 'hub'), offline: false } };
};

/** Finds, fetches and pins an adapter, then opens it by its pins alone on a machine that has nothing yet. */
async function carryOver(uri: string, settings: ReturnType<typeof machine> & { s3?: object }) {
  const located = await locateAdapter(uri, settings);
  const local = await located.fetch();
  expect((await readStartAdapter(local.path)).options).toMatchObject({ rank: 4, alpha: 6 });
  const files = await local.pin();
  const opened = await new ModelCache({ ...settings, ...machine(), ...(settings.s3 && { s3: settings.s3 }) }).open({ files }, undefined, 'lora.from');
  return { remote: located.remote, files, opened };
}
const digests = names.map((name) => ({ name, sha256: sha256(readFileSync(join(golden, name))) }));

describe('an adapter to start from', () => {
  it.each([['file:adapter', false], ['hf://tiny/adapter', true], ['hf://tiny/nested/checkpoint-8', true]])('%s is pinned by its two files, and opened by them elsewhere', async (uri, remote) => {
    const found = await carryOver(uri, machine());
    expect(found.remote).toBe(remote);
    expect(found.files.map(({ name, sha256: digest }) => ({ name, sha256: digest }))).toEqual(digests);
    expect(readdirSync(found.opened).sort()).toEqual(names);
  });

  it('is named by lora.from when it has changed since', async () => {
    cpSync(golden, join(root, 'changing'), { recursive: true });
    const settings = machine();
    const files = await (await (await locateAdapter('file:changing', settings)).fetch()).pin();
    writeFileSync(join(root, 'changing', 'adapter_config.json'), '{}');
    await expect(new ModelCache(settings).open({ files }, undefined, 'lora.from')).rejects.toThrow(/lora\.from: .*adapter_config\.json: expected sha256 .*; the file has changed since the run began/);
  });

  it('says what lies where none is', async () => {
    await expect(locateAdapter('hf://tiny/words', machine())).rejects.toThrow('expected a PEFT directory, with adapter_config.json and adapter_model.safetensors, at tiny/words, got README.md');
    await expect(locateAdapter('hf://tiny/nested', machine())).rejects.toThrow('at tiny/nested, got no file');
  });
});

describeS3('an adapter in a bucket', (s3) => {
  it('is pinned and opened elsewhere', async () => {
    const options = s3Options(s3), bucket = await newBucket(s3);
    const store = openStore(`s3://${bucket}`, { s3: options });
    for (const name of names) await store.putFileAt(`runs/adapter/${name}`, join(golden, name), 'application/octet-stream');
    const settings = { ...machine(), s3: options };
    const { files, opened } = await carryOver(`s3://${bucket}/runs/adapter`, settings);
    expect(files.map(({ name, uri, sha256: digest }) => ({ name, uri, sha256: digest }))).toEqual(digests.map((file) => ({ ...file, uri: `s3://${bucket}/runs/adapter/${file.name}` })));
    expect(readdirSync(opened).sort()).toEqual(names);
    await expect(locateAdapter(`s3://${bucket}/runs`, settings)).rejects.toThrow(`at s3://${bucket}/runs, got no file`);
  });
});
