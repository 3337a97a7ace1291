import { copyFileSync, mkdirSync, readdirSync, statSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { gzipSync } from 'node:zlib';
import { parquetWriteBuffer } from 'hyparquet-writer';
import { describe, expect, it } from 'vitest';
import { createValidateStage, validate } from '../../activities/validate.js';
import { runStage } from '../../activities/stage.js';
import { InvalidInputError } from '../../contracts/errors.js';
import { sha256 } from '../../store/digest.js';
import { stageKit } from '../kit/stage.js';
import { temporaryDirectory } from '../kit/temporary.js';

const root = temporaryDirectory();
const outside = temporaryDirectory();
const settings = { dataRoots: [root], cacheDirectory: join(root, 'cache') };
const csv = `product,category,description\n${Array.from({ length: 40 }, (_, i) => `p${i},c,d${i}`).join('\n')}\n`;
writeFileSync(join(root, 'data.csv'), csv);
writeFileSync(join(root, 'two.csv'), 'product,category,description\na,b,c\nd,e,f\n');
writeFileSync(join(root, 'header.csv'), 'product,category,description\n');
writeFileSync(join(root, 'empty.jsonl'), '');
writeFileSync(join(root, 'broken.jsonl'), '{"product": \n');
writeFileSync(join(outside, 'data.csv'), csv);
mkdirSync(join(root, 'parts'));
writeFileSync(join(root, 'parts', 'a.csv'), csv);
writeFileSync(join(root, 'parts', 'b.csv.gz'), gzipSync(csv));
writeFileSync(join(root, 'parts', 'c.jsonl'), '{"product":"p","kind":"c","description":"d"}\n');
writeFileSync(join(root, 'parts', 'd.csv.gz'), gzipSync(csv).subarray(0, 60));
symlinkSync(join(outside, 'data.csv'), join(root, 'parts', 'outside.csv'));
symlinkSync(join(outside, 'data.csv'), join(root, 'link.csv'));
copyFileSync('test/golden/formats-model.gguf', join(root, 'model.gguf'));
const modelBytes = statSync(join(root, 'model.gguf')).size;
copyFileSync('test/golden/formats-model.gguf', join(root, 'short.gguf'));
truncateSync(join(root, 'short.gguf'), modelBytes - 1000);
writeFileSync(join(root, 'magic.gguf'), 'PK\u0003\u0004 is a zip, not a model, long enough to have a header');
mkdirSync(join(root, 'no-tokenizer'));
for (const name of ['config.json', 'model.safetensors']) copyFileSync(`test/golden/model/base/${name}`, join(root, 'no-tokenizer', name));
mkdirSync(join(root, 'other-model'));
writeFileSync(join(root, 'other-model', 'config.json'), JSON.stringify({ model_type: 'gemma3_text' }));
copyFileSync('test/golden/model/base/model.safetensors', join(root, 'other-model', 'model.safetensors'));
mkdirSync(join(root, 'no-model'));
writeFileSync(join(root, 'no-model', 'readme.txt'), '');

const good = {
  name: 'run',
  model: { uri: 'file:model.gguf' },
  dataset: { uri: 'file:data.csv' },
  format: { instruction: 'Describe {product}, a {category}:', response: '{description}', maxLength: 64 },
};
type Change = Record<string, unknown>;
const changed = (change: Change): unknown => merge(good, change);
function merge(base: unknown, change: unknown): unknown {
  if (typeof change !== 'object' || change === null || Array.isArray(change)) return change;
  const from = (base ?? {}) as Change;
  return { ...from, ...Object.fromEntries(Object.entries(change).map(([key, value]) => [key, merge(from[key], value)])) };
}

async function problemsOf(input: unknown): Promise<string[]> {
  const error = await validate(input, settings).catch((caught: unknown) => caught);
  if (!(error instanceof InvalidInputError)) throw error instanceof Error ? error : new Error('expected it to be refused');
  return error.problems.map(({ path, message }) => `${path}: ${message}`);
}

describe('a good configuration', () => {
  it('comes back with its defaults, its model and its dataset pinned', async () => {
    const output = await validate(good, settings);
    expect(output.config).toMatchObject({ lora: { rank: 8 }, train: { batchSize: 4 }, reuse: true });
    expect(output.dataset).toEqual({ uri: pathToFileURL(join(root, 'data.csv')).href, sha256: sha256(csv), bytes: csv.length, mediaType: 'text/csv' });
    expect(output.model).toMatchObject({ uri: 'file:model.gguf', format: 'gguf', files: [{ name: 'model.gguf', bytes: modelBytes }], architecture: { name: 'llama', layers: 2, parameters: 39072 } });
    expect(output.requiredColumns).toEqual(['product', 'category', 'description']);
    expect(output.promptColumns).toEqual(['product', 'category']);
  });

  it('passes as a stage', async () => {
    const kit = await stageKit();
    const { output, reused } = await runStage(createValidateStage(settings), { input: good }, { ...kit.context, workRoot: kit.directory });
    expect({ name: output.config.name, reused }).toEqual({ name: 'run', reused: false });
    await kit.remove();
  });

  it('may publish; nothing is written to the destination yet, and its URI is made absolute', async () => {
    const output = await validate(changed({ publish: { uri: 'file:published' } }), settings);
    expect(output.config.publish).toEqual({ uri: pathToFileURL(join(root, 'published')).href });
    expect(readdirSync(root)).not.toContain('published');
  });

  it('may rename columns and read Parquet', async () => {
    const column = (name: string) => ({ name, data: Array.from({ length: 40 }, (_, i) => `${name} ${i}`) });
    writeFileSync(join(root, 'data.parquet'), new Uint8Array(parquetWriteBuffer({ columnData: [column('product'), column('kind'), column('description')] })));
    await validate(changed({ dataset: { uri: 'file:data.parquet', columns: { category: 'kind' } } }), settings);
    expect(await problemsOf(changed({ dataset: { uri: 'file:data.parquet' } }))).toEqual([expect.stringContaining("{category}: expected a column of the dataset (product, kind, description), got 'category'")]);
  });

  it('may name several files, in a list and by patterns', async () => {
    const { dataset } = await validate(changed({ dataset: { uri: ['file:parts/[ab].csv*', 'file:data.csv'] } }), settings);
    expect([dataset].flat().map(({ uri, mediaType }) => [uri, mediaType])).toEqual(
      ['parts/a.csv', 'parts/b.csv.gz', 'data.csv'].map((name) => [pathToFileURL(join(root, name)).href, 'text/csv']),
    );
  });

  it("may use the model's chat template", async () => {
    expect((await validate(changed({ format: { template: 'chat' } }), settings)).config.format.template).toBe('chat');
  });

  it('gives the same for the same', async () => {
    expect(await validate(good, settings)).toEqual(await validate(good, settings));
  });
});

describe('bad input', () => {
  it.each<[string, Change, string[]]>([
    ['an unknown key at the top', { modle: 1 }, ['modle: unknown key, expected name, model, dataset, format, base, lora, train, evaluate, merge, export, publish or reuse']],
    ['an unknown key inside', { train: { learning_rate: 1 } }, ["train.learning_rate: unknown key, did you mean 'learningRate'?"]],
    ['a wrong type', { lora: { rank: '8' } }, ['lora.rank: expected a number, got "8"']],
    ['an unknown target module', { lora: { targetModules: ['q_proj', 'k_proj', 'q_prj'] } },
      ["lora.targetModules[2]: unknown module 'q_prj', did you mean 'q_proj'? this model has: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head"]],
    ['a module twice', { lora: { targetModules: ['q_proj', 'q_proj'] } }, ["lora.targetModules[1]: expected every module once, got 'q_proj' twice"]],
    ['a rank as large as a matrix', { lora: { rank: 16 } }, ['lora.rank: expected less than 16, the smaller side of k_proj [16×32], got 16']],
    ['a length over the context', { format: { maxLength: 129 } }, ["format.maxLength: expected at most 128, the model's context, got 129"]],
    ['answers over the context', { evaluate: { maxNewTokens: 128 } }, ["evaluate.maxNewTokens: expected less than 128, the model's context, got 128"]],
    ['a missing placeholder', { format: { instruction: 'Describe {produkt}' } }, ["format.instruction: {produkt}: expected a column of the dataset (product, category, description), got 'produkt'"]],
    ['a broken placeholder', { format: { instruction: 'Describe {product' } }, ['format.instruction: expected {column}, or {{ for a brace, got "{product" at character 10']],
    ['a mapped column that the file lacks', { dataset: { columns: { category: 'kind' } } }, ["dataset.columns.category: expected a column of the file (product, category, description), got 'kind'"]],
    ['a named template without instruction', { format: { instruction: undefined } }, ["format.instruction: expected the instruction of template 'alpaca', got none"]],
    ['an inline template with instruction', { format: { template: { prompt: '{product}' } } }, ['format.instruction: expected none beside an inline prompt, got one; put it into format.template.prompt']],
    ['a prompt without a value', { evaluate: { prompts: [{ product: 'x' }] } }, ['evaluate.prompts[0].category: expected text for this placeholder of the prompt, got none']],
    ['an empty dataset', { dataset: { uri: 'file:empty.jsonl' } }, ['dataset.uri: empty.jsonl: expected at least one row, got an empty file']],
    ['a header without rows', { dataset: { uri: 'file:header.csv' } }, ['dataset.uri: header.csv: expected at least one row, got none']],
    ['a file that is not of its format', { dataset: { uri: 'file:broken.jsonl' } }, [expect.stringMatching(/^dataset\.uri: broken\.jsonl line 1: expected a JSON object, got a mistake/) as unknown as string]],
    ['a format that nothing tells', { dataset: { uri: 'file:no-model/readme.txt' } }, [expect.stringMatching(/^dataset\.format: expected one of csv, json, jsonl, parquet/) as unknown as string]],
    ['a sample larger than the file', { dataset: { uri: 'file:two.csv', sample: { rows: 3 } } }, ['dataset.sample.rows: expected at most the 2 rows of the dataset, got 3']],
    ['a test split that takes all', { dataset: { uri: 'file:two.csv', split: { test: 2 } } }, ['dataset.split.test: expected to leave at least one of 2 rows to train on, got 2, which takes 2']],
    ['a missing dataset', { dataset: { uri: 'file:none.csv' } }, [`dataset.uri: expected a file or directory at ${join(root, 'none.csv')}, got none`]],
    ['a directory for a dataset', { dataset: { uri: 'file:no-model' } }, [`dataset.uri: expected a file, got the directory ${join(root, 'no-model')}; ${join(root, 'no-model')}/*.csv would be the files in it`]],
    ['a dataset outside', { dataset: { uri: pathToFileURL(join(outside, 'data.csv')).href } }, [`dataset.uri: expected a path inside the allowed directories (${root}; TEMPER_DATA_ROOTS), got ${join(outside, 'data.csv')}`]],
    ['a dataset outside, by dots', { dataset: { uri: `file:../${outside.split('/').at(-1)}/data.csv` } }, [`dataset.uri: expected a path inside the allowed directories (${root}; TEMPER_DATA_ROOTS), got ${join(outside, 'data.csv')}`]],
    ['a dataset outside, by a link', { dataset: { uri: 'file:link.csv' } }, [`dataset.uri: expected a path inside the allowed directories (${root}; TEMPER_DATA_ROOTS), got ${join(outside, 'data.csv')}`]],
    ['a pattern that nothing matches', { dataset: { uri: 'file:parts/*.parquet' } }, [`dataset.uri: expected files like ${join(root, 'parts/*.parquet')}, got a.csv, b.csv.gz, c.jsonl, d.csv.gz, outside.csv`]],
    ['a pattern that matches what lies outside', { dataset: { uri: 'file:parts/o*.csv' } }, [`dataset.uri: expected a path inside the allowed directories (${root}; TEMPER_DATA_ROOTS), got ${join(outside, 'data.csv')}`]],
    ['a file twice', { dataset: { uri: ['file:parts/a.csv', 'file:parts/[ab].*'] } }, [`dataset.uri: expected every file once, got ${pathToFileURL(join(root, 'parts/a.csv')).href} twice`]],
    ['each of several that is missing', { dataset: { uri: ['file:none.csv', 'file:data.csv', 'file:nowhere/*.csv'] } }, [
      `dataset.uri[0]: expected a file or directory at ${join(root, 'none.csv')}, got none`, `dataset.uri[2]: expected a file or directory at ${join(root, 'nowhere')}/, got none`,
    ]],
    ['one of several that lacks a column', { dataset: { uri: ['file:parts/a.csv', 'file:parts/c.jsonl'] } },
      ["format.instruction: c.jsonl: {category}: expected a column of the dataset (product, kind, description), got 'category'"]],
    ['a column that all of them lack, once', { dataset: { uri: 'file:parts/[ab].*', columns: { category: 'kind' } } }, ["dataset.columns.category: expected a column of the file (product, category, description), got 'kind'"]],
    ['a compressed file that is cut short', { dataset: { uri: 'file:parts/d.csv.gz' } }, ['dataset.uri: d.csv.gz: expected gzip data, got a mistake in it: unexpected end of file']],
    ['a choice of the hub beside a file', { dataset: { hub: { split: 'test' } } }, ['dataset.hub: expected none beside files that are not on the hub, got {"split":"test"}']],
    ['a path for a URI', { dataset: { uri: './data.csv' } }, ["dataset.uri: expected hf://OWNER/NAME, file:PATH, s3://BUCKET/KEY or a built-in name (wordnet-artifacts), got './data.csv'; did you mean 'file:./data.csv'?"]],
    ['a mistyped built-in', { dataset: { uri: 'wordnet-artifact' } }, ["dataset.uri: expected hf://OWNER/NAME, file:PATH, s3://BUCKET/KEY or a built-in name (wordnet-artifacts), got 'wordnet-artifact'; did you mean 'wordnet-artifacts'?"]],
    ['a scheme that nobody reads', { model: { uri: 'https://example.com/model.gguf' } }, ["model.uri: expected hf://OWNER/NAME, file:PATH, s3://BUCKET/KEY or a built-in name (smollm2-135m-instruct), got 'https://example.com/model.gguf'"]],
    ['a bucket without a key', { model: { uri: 's3://bucket' } }, ["model.uri: expected s3://bucket/key, got 's3://bucket'"]],
    ['a missing model', { model: { uri: 'file:none.gguf' } }, [`model.uri: expected a file or directory at ${join(root, 'none.gguf')}, got none`]],
    ['a directory without a model', { model: { uri: 'file:no-model' } }, ['model.uri: no-model: model: expected config.json with safetensors or pytorch_model.bin, or one .gguf file, got readme.txt']],
    ['a model without a tokenizer', { model: { uri: 'file:no-tokenizer' } }, [expect.stringMatching(/^model\.uri: tokenizer/) as unknown as string]],
    ['a model of an unknown architecture', { model: { uri: 'file:other-model' } }, ['model.uri: config.json: model_type: expected one of the supported architectures (llama, mistral, qwen2, qwen3, smollm3), got "gemma3_text"']],
    ['a truncated model', { model: { uri: 'file:short.gguf' } }, [`model.uri: short.gguf: file: expected ${modelBytes} bytes, got ${modelBytes - 1000}`]],
    ['a wrong magic', { model: { uri: 'file:magic.gguf' } }, [expect.stringMatching(/^model\.uri: magic\.gguf: magic: expected .*GGUF/i) as unknown as string]],
    ['a destination of no known scheme', { publish: { uri: 'gs://bucket' } }, ['publish.uri: gs://bucket: expected a URI of the scheme file: or s3:, got gs:']],
  ])('names %s', async (_, change, expected) => {
    expect(await problemsOf(changed(change))).toEqual(expected);
  });

  it.skipIf(process.getuid?.() === 0)('names a file that may not be read (root may read all)', async () => {
    writeFileSync(join(root, 'private.csv'), csv, { mode: 0o000 });
    expect(await problemsOf(changed({ dataset: { uri: 'file:private.csv' } }))).toEqual([`dataset.uri: expected a file or directory at ${join(root, 'private.csv')}, got no permission to read it`]);
  });

  it('names a destination that cannot be written', async () => {
    expect(await problemsOf(changed({ publish: { uri: 'file:data.csv/published' } }))).toEqual([expect.stringMatching(/^publish\.uri: .*data\.csv\/published/)]);
  });

  it('names all problems at once, of the schema and of what it points to', async () => {
    const problems = await problemsOf(changed({
      modle: 1, lora: { rank: 'x', targetModules: ['q_prj'] }, dataset: { uri: 'file:none.csv' }, format: { maxLength: 1000 }, evaluate: { prompts: [{ product: 'x' }] },
    }));
    expect(problems.map((problem) => problem.split(':')[0]).sort()).toEqual(['dataset.uri', 'evaluate.prompts[0].category', 'format.maxLength', 'lora.rank', 'lora.targetModules[0]', 'modle']);
  });

  it('does not blame what was left out because it was mistaken', async () => {
    expect(await problemsOf(changed({ format: { instruction: 7 } }))).toEqual(['format.instruction: expected a string, got 7']);
  });

  it.each([[undefined], [null], ['text'], [[]], [{}]])('refuses %j', async (input) => {
    expect((await problemsOf(input)).length).toBeGreaterThan(0);
  });

  it('leaves nothing behind', async () => {
    const before = readdirSync(root).sort();
    await problemsOf(changed({ dataset: { uri: 'file:none.csv' }, publish: { uri: 'file:published' } }));
    expect(readdirSync(root).sort()).toEqual(before);
  });
});
