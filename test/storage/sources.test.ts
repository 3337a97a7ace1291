import { copyFileSync, existsSync, readdirSync, readFileSync, realpathSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, it } from 'vitest';
import { fetchDataset, locateDataset } from '../../activities/sources/datasets.js';
import { locateModel, ModelCache } from '../../activities/sources/models.js';
import { validate } from '../../activities/validate.js';
import { InvalidInputError } from '../../contracts/errors.js';
import { openModel } from '../../engine/formats/open-model.js';
import { sha256 } from '../../store/digest.js';
import { openStore } from '../../store/open-store.js';
import { StoreError } from '../../store/store-error.js';
import { describeS3, newBucket, s3Options } from '../kit/s3.js';
import { temporaryDirectory } from '../kit/temporary.js';

const goldenModel = 'test/golden/formats-model.gguf';
const csv = `product,description\n${Array.from({ length: 40 }, (_, i) => `p${i},d${i}`).join('\n')}\n`;

function localSettings() {
  const directory = realpathSync(temporaryDirectory());
  copyFileSync(goldenModel, join(directory, 'model.gguf'));
  writeFileSync(join(directory, 'data.csv'), csv);
  return { directory, settings: { dataRoots: [directory], cacheDirectory: join(directory, 'cache') } };
}

describe('local models and datasets', () => {
  it('links to a local model instead of copying it', async () => {
    const { directory, settings } = localSettings();
    const files = await (await (await locateModel('file:model.gguf', settings)).fetch()).pin();
    const opened = await new ModelCache(settings).open({ files });
    expect(readdirSync(opened)).toEqual(['model.gguf']);
    expect(realpathSync(join(opened, 'model.gguf'))).toBe(join(directory, 'model.gguf'));
    await (await openModel(opened)).close();
  });

  it('pins the files of a Hugging Face directory, not what else lies in it', async () => {
    const { directory, settings } = localSettings();
    rmSync(join(directory, 'model.gguf'));
    for (const name of ['config.json', 'model.safetensors', 'tokenizer.json', 'README.md', 'pytorch_model.bin']) writeFileSync(join(directory, name), name);
    const files = await (await (await locateModel('file:.', settings)).fetch()).pin();
    expect(files.map(({ name }) => name)).toEqual(['config.json', 'model.safetensors', 'tokenizer.json']);
  });

  it('notices a model and a dataset that changed after they were pinned', async () => {
    const { directory, settings } = localSettings();
    const files = await (await (await locateModel('file:model.gguf', settings)).fetch()).pin();
    const [{ ref }] = await (await locateDataset({ uri: 'file:data.csv' }, settings)).fetch();
    writeFileSync(join(directory, 'model.gguf'), 'another');
    writeFileSync(join(directory, 'data.csv'), 'another');
    await expect(new ModelCache(settings).open({ files })).rejects.toThrow(/model\.uri: .*model\.gguf: expected sha256 .*; the file has changed since the run began/);
    await expect(fetchDataset(ref, settings)).rejects.toThrow(/dataset\.uri: .*data\.csv: expected sha256 .*; the file has changed since the run began/);
  });

  it('notices a model and a dataset that are not there any more', async () => {
    const { directory, settings } = localSettings();
    const files = await (await (await locateModel('file:model.gguf', settings)).fetch()).pin();
    const [{ ref }] = await (await locateDataset({ uri: 'file:data.csv' }, settings)).fetch();
    rmSync(join(directory, 'model.gguf'));
    rmSync(join(directory, 'data.csv'));
    const problem = (path: string, name: string) => ({ name: 'InvalidInputError', problems: [{ path, message: `expected a file or directory at ${join(directory, name)}, got none` }] });
    await expect(new ModelCache(settings).open({ files })).rejects.toMatchObject(problem('model.uri', 'model.gguf'));
    await expect(fetchDataset(ref, settings)).rejects.toMatchObject(problem('dataset.uri', 'data.csv'));
  });

  it('follows a model that moved', async () => {
    const { directory, settings } = localSettings();
    const files = await (await (await locateModel('file:model.gguf', settings)).fetch()).pin();
    const cache = new ModelCache(settings);
    const opened = await cache.open({ files });
    renameSync(join(directory, 'model.gguf'), join(directory, 'moved.gguf'));
    const moved = files.map((file) => ({ ...file, uri: pathToFileURL(join(directory, 'moved.gguf')).href }));
    expect(await cache.open({ files: moved })).toBe(opened);
    expect(realpathSync(join(opened, 'model.gguf'))).toBe(join(directory, 'moved.gguf'));
  });

  it('makes the WordNet dataset, the same each time', async () => {
    const { settings } = localSettings();
    const [{ path, ref }] = await (await locateDataset({ uri: 'wordnet-artifacts' }, settings)).fetch();
    const rows = readFileSync(path, 'utf8').trimEnd().split('\n').map((line) => JSON.parse(line) as Record<string, string>);
    expect(rows.length).toBe(11_605);
    expect(rows[2]).toEqual({ product: 'abacus', category: 'calculator', description: 'a calculator that performs arithmetic functions by manually sliding counters on rods or in grooves' });
    expect(rows.every((row) => Object.values(row).every((text) => text !== '' && !text.includes('"')))).toBe(true);
    rmSync(path);
    expect(await fetchDataset(ref, settings)).toBe(path);
    expect(existsSync(path)).toBe(true);
  });
});

describeS3('models and datasets on S3', (s3) => {
  const options = s3Options(s3);
  const prepare = async () => {
    const { directory, settings } = localSettings();
    const bucket = await newBucket(s3);
    const store = openStore(`s3://${bucket}`, { s3: options });
    await store.putFileAt('base/model.gguf', join(directory, 'model.gguf'), 'application/octet-stream');
    await store.putFileAt('sets/data.csv', join(directory, 'data.csv'), 'text/csv');
    const config = {
      name: 'run', model: { uri: `s3://${bucket}/base` }, dataset: { uri: `s3://${bucket}/sets/data.csv` },
      format: { instruction: 'Describe {product}', response: '{description}', maxLength: 64 },
    };
    return { bucket, store, config, settings: { ...settings, s3: options } };
  };

  it('validates, pins and fetches them; another machine gets the same', async () => {
    const { bucket, config, settings } = await prepare();
    const output = await validate(config, settings);
    expect(output.dataset).toEqual({ uri: `s3://${bucket}/sets/data.csv`, sha256: sha256(csv), bytes: csv.length, mediaType: 'text/csv' });
    expect(output.model.files).toEqual([expect.objectContaining({ name: 'model.gguf', uri: `s3://${bucket}/base/model.gguf`, sha256: sha256(readFileSync(goldenModel)) })]);
    const elsewhere = { ...settings, cacheDirectory: temporaryDirectory() };
    const [one, two] = await Promise.all([new ModelCache(elsewhere).open(output.model), new ModelCache(elsewhere).open(output.model)]);
    expect(one).toBe(two);
    expect(readFileSync(join(one, 'model.gguf'))).toEqual(readFileSync(goldenModel));
    expect(readFileSync(await fetchDataset([output.dataset].flat()[0], elsewhere), 'utf8')).toBe(csv);
  });

  it('names one file as the model too', async () => {
    const { bucket, config, settings } = await prepare();
    expect((await validate({ ...config, model: { uri: `s3://${bucket}/base/model.gguf` } }, settings)).model.files.map(({ name }) => name)).toEqual(['model.gguf']);
  });

  it('takes several objects, in a list and by patterns', async () => {
    const { bucket, store, config, settings } = await prepare();
    for (const name of ['2024/a.csv', '2024/b.csv', '2025/a.csv']) await store.putFileAt(`parts/${name}`, join(settings.dataRoots[0], 'data.csv'), 'text/csv');
    const files = async (uri: string | string[]) => [(await validate({ ...config, dataset: { uri } }, settings)).dataset].flat().map((ref) => ref.uri);
    expect(await files(`s3://${bucket}/parts/2024/*.csv`)).toEqual(['a', 'b'].map((name) => `s3://${bucket}/parts/2024/${name}.csv`));
    expect(await files([`s3://${bucket}/sets/data.csv`, `s3://${bucket}/parts/**/a.csv`])).toEqual(['sets/data', 'parts/2024/a', 'parts/2025/a'].map((name) => `s3://${bucket}/${name}.csv`));
    await expect(files(`s3://${bucket}/parts/*.parquet`)).rejects.toThrow(`dataset.uri: expected objects like s3://${bucket}/parts/*.parquet, got none`);
  });

  it('does not fetch again what has not changed', async () => {
    const { store, config, settings } = await prepare();
    const first = await validate(config, settings);
    const fetched: string[] = [];
    expect(await validate(config, settings, (phase) => fetched.push(phase))).toEqual(first);
    expect(fetched).toEqual([]);
    const changed = join(temporaryDirectory(), 'data.csv');
    writeFileSync(changed, `${csv}one,more\n`);
    await store.putFileAt('sets/data.csv', changed, 'text/csv');
    expect([(await validate(config, settings)).dataset].flat()[0].sha256).toBe(sha256(`${csv}one,more\n`));
  });

  it('names missing buckets and objects, all at once, and fetches nothing', async () => {
    const { bucket, config, settings } = await prepare();
    const bad = { ...config, model: { uri: 's3://temper-no-such-bucket/base' }, dataset: { uri: `s3://${bucket}/sets/none.csv` }, publish: { uri: 's3://temper-no-such-bucket/out' } };
    const error = await validate(bad, settings).catch((caught: unknown) => caught);
    expect((error as InvalidInputError).problems).toEqual(expect.arrayContaining([
      { path: 'model.uri', message: expect.stringContaining('the bucket temper-no-such-bucket does not exist') },
      { path: 'dataset.uri', message: `expected an object at s3://${bucket}/sets/none.csv, got none` },
      { path: 'publish.uri', message: 's3://temper-no-such-bucket/out: the bucket temper-no-such-bucket does not exist' },
    ]));
    expect((error as InvalidInputError).problems.length).toBe(3);
    expect(existsSync(settings.cacheDirectory)).toBe(false);
  });

  it('names a prefix that holds no model', async () => {
    const { bucket, config, settings } = await prepare();
    await expect(validate({ ...config, model: { uri: `s3://${bucket}/sets` } }, settings)).rejects.toThrow(`model.uri: expected a model at s3://${bucket}/sets, got data.csv`);
  });

  it('names denied credentials', async () => {
    const { config, settings } = await prepare();
    const denied = { ...settings, s3: { ...options, credentials: { accessKeyId: s3.accessKeyId, secretAccessKey: 'wrong' } } };
    const error = await validate(config, denied).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(InvalidInputError);
    expect((error as InvalidInputError).problems.map(({ path }) => path).sort()).toEqual(['dataset.uri', 'model.uri']);
    expect((error as Error).message).toContain('access denied (SignatureDoesNotMatch');
  });

  it('leaves an unreachable endpoint to retries: that is no mistake of the user', async () => {
    const { bucket, settings } = await prepare();
    const store = openStore(`s3://${bucket}`, { s3: { ...settings.s3, endpoint: 'http://127.0.0.1:9' } });
    await expect(store.check()).rejects.toMatchObject({ code: 'unreachable' });
    const { config } = await prepare();
    const local = { ...config, publish: { uri: 's3://anything/out' } };
    await expect(validate(local, { ...settings, s3: { ...options, endpoint: 'http://127.0.0.1:9' } })).rejects.toBeInstanceOf(StoreError);
  });
});
