import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { requireSpace } from '../../activities/sources/free-space.js';
import { globRoot, globTest } from '../../activities/sources/glob.js';
import { datasetFiles } from '../../activities/sources/hub/dataset-files.js';
import { hubFileUri, parseHubUri } from '../../activities/sources/hub/hub-uri.js';
import { ggufModels, modelFiles, modelParts } from '../../activities/sources/model-files.js';
import { parseSourceUri } from '../../activities/sources/source-uri.js';
import { goldenPath } from '../kit/golden.js';
import { temporaryDirectory } from '../kit/temporary.js';

interface Golden {
  trees: { files: string[]; splits: Record<string, string[]> }[];
  files: string[];
  patterns: Record<string, string[]>;
}
const golden = JSON.parse(readFileSync(goldenPath('dataset-files.json'), 'utf8')) as Golden;

describe('files of a dataset without a card', () => {
  const cases = golden.trees.flatMap(({ files, splits }) => Object.entries(splits).map(([split, expected]) => [split, files, expected] as const));
  it.each(cases)('%s of %j: those that the datasets library takes', (split, files, expected) => {
    expect([...datasetFiles(files, undefined, { split })].sort()).toEqual(expected.filter((name) => name !== 'README.md'));
  });

  it.each(golden.trees.map(({ files, splits }) => [files, Object.keys(splits)] as const))('%j: no other splits', (files, splits) => {
    const offered = (() => {
      try {
        return datasetFiles(files, undefined, { split: 'none' }).join();
      } catch (error) {
        return /one of (.*), got/.exec((error as Error).message)![1];
      }
    })();
    expect(offered.split(', ').sort()).toEqual([...splits].sort());
  });
});

describe('files of a dataset with a card', () => {
  const files = ['README.md', 'a/train.csv', 'a/test.csv', 'b/one.csv', 'b/two.csv', 'c.json'];
  const card = (configs: string) => `---\nlicense: mit\nconfigs:\n${configs}\n---\n# Card`;
  it.each<[string, string, Parameters<typeof datasetFiles>[2], string[]]>([
    ['a path', '- config_name: default\n  data_files: c.json', {}, ['c.json']],
    ['paths', '- config_name: default\n  data_files: [b/two.csv, b/one.csv]', {}, ['b/two.csv', 'b/one.csv']],
    ['splits', '- config_name: x\n  data_files:\n  - split: train\n    path: b/*\n  - split: extra\n    path: c.json', { split: 'extra' }, ['c.json']],
    ['a folder', '- config_name: x\n  data_dir: a', { split: 'test' }, ['a/test.csv']],
    ['a folder with paths', '- config_name: x\n  data_dir: b\n  data_files: "*.csv"', {}, ['b/one.csv', 'b/two.csv']],
    ['a default among several', '- config_name: x\n  data_files: c.json\n- config_name: y\n  default: true\n  data_files: b/one.csv', {}, ['b/one.csv']],
  ])('%s', (_, configs, choice, expected) => expect(datasetFiles(files, card(configs), choice)).toEqual(expected));

  it.each<[string, string, string]>([
    ['several configurations', card('- config_name: x\n  data_files: c.json\n- config_name: y\n  data_files: b/one.csv'), 'expected dataset.hub.config to be one of x, y, got none'],
    ['a pattern that nothing matches', card('- config_name: x\n  data_files: d/*'), "README.md: configuration 'x': expected files like d/*, got none"],
    ['what is no path', card('- config_name: x\n  data_files: [{split: train}]'), `README.md: configuration 'x': expected data_files to be paths, or splits with a path, got {"split":"train"}`],
    ['a mistake in its YAML', '---\na: [\n---', 'README.md: expected YAML between its --- lines, got a mistake in it: '],
    ['files of two formats', card('- config_name: x\n  data_files: ["c.json", "b/*"]'), 'expected files of one format, got .json and .csv; name those that are meant after the repository, as /*.json'],
  ])('refuses %s', (_, text, message) => expect(() => datasetFiles(files, text, {})).toThrow(message));

  it('is not read in the branch of the hub\'s own conversion, whose folders tell', () => {
    const converted = ['big/train/0000.parquet', 'big/partial-test/0000.parquet', 'small/train/0000.parquet', 'small/train/0001.parquet'];
    expect(datasetFiles(converted, undefined, { config: 'small' }, 'refs/convert/parquet')).toEqual(['small/train/0000.parquet', 'small/train/0001.parquet']);
    expect(datasetFiles(converted, undefined, { config: 'big', split: 'test' }, 'refs/convert/parquet')).toEqual(['big/partial-test/0000.parquet']);
  });
});

describe('patterns', () => {
  it.each(Object.entries(golden.patterns))('%s: the files that the datasets library finds', (pattern, expected) => {
    expect(golden.files.filter(globTest(pattern)).sort()).toEqual(expected);
  });

  it.each([['data/*.csv', 'data/'], ['*.csv', ''], ['a/b*/c', 'a/'], ['/a/b/[xy].csv', '/a/b/']])('%s begins in %s', (pattern, root) => expect(globRoot(pattern)).toBe(root));
});

describe('URIs of the hub', () => {
  it.each<[string, ReturnType<typeof parseHubUri>]>([
    ['hf://a/b', { kind: 'model', name: 'a/b', revision: undefined, path: '' }],
    ['hf://models/a/b@v1', { kind: 'model', name: 'a/b', revision: 'v1', path: '' }],
    ['hf://a/b@v1/x/y.gguf', { kind: 'model', name: 'a/b', revision: 'v1', path: 'x/y.gguf' }],
    ['hf://a/b/x@1.gguf', { kind: 'model', name: 'a/b', revision: undefined, path: 'x@1.gguf' }],
    ['hf://a/b@refs/pr/3/x.gguf', { kind: 'model', name: 'a/b', revision: 'refs/pr/3', path: 'x.gguf' }],
    ['hf://a/b@refs/convert/parquet', { kind: 'model', name: 'a/b', revision: 'refs/convert/parquet', path: '' }],
    ['hf://a/b@feature%2Fx/y', { kind: 'model', name: 'a/b', revision: 'feature/x', path: 'y' }],
  ])('%s', (uri, expected) => expect(parseHubUri(uri, 'model')).toEqual(expected));

  it.each(['hf://a', 'hf://', 'hf://a/b@', 'hf://a/b/../c', 'hf://a/b//c', 'hf://a b/c', 'hf://-a/b', 'hf://spaces/a/b', 'hf://datasets/a/b'])('refuses %s', (uri) => {
    expect(() => parseHubUri(uri, 'model')).toThrow(/^expected hf:\/\/OWNER\/NAME\[@REVISION\]\[\/PATH\] of a model, got /);
  });

  it('name one file of one commit for good', () => {
    const uri = hubFileUri({ kind: 'dataset', name: 'a/b' }, 'c'.repeat(40), 'x/y.csv');
    expect(parseHubUri(uri, 'dataset')).toEqual({ kind: 'dataset', name: 'a/b', revision: 'c'.repeat(40), path: 'x/y.csv' });
  });

  it.each([
    ['meta-llama/Llama-3.2-1B', 'hf://meta-llama/Llama-3.2-1B'],
    ['https://huggingface.co/openlm-research/open_llama_3b_v2/tree/main', 'hf://openlm-research/open_llama_3b_v2'],
    ['https://huggingface.co/datasets/tatsu-lab/alpaca', 'hf://tatsu-lab/alpaca'],
  ])('are what %s was meant for', (text, guess) => expect(() => parseSourceUri(text, [], 'model')).toThrow(`did you mean '${guess}'?`));
});

describe('files of a model', () => {
  it.each<[string, string[], string[]]>([
    ['safetensors before PyTorch', ['config.json', 'model.safetensors', 'pytorch_model.bin', 'README.md', 'tf_model.h5'], ['config.json', 'model.safetensors']],
    ['shards, not their copies', ['config.json', 'consolidated.safetensors', 'model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors', 'model.safetensors.index.json', 'tokenizer.json'],
      ['config.json', 'model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors', 'model.safetensors.index.json', 'tokenizer.json']],
    ['PyTorch where there is nothing else', ['config.json', 'pytorch_model-00001-of-00001.bin', 'pytorch_model.bin.index.json', 'training_args.bin', 'tokenizer.model'],
      ['config.json', 'pytorch_model-00001-of-00001.bin', 'pytorch_model.bin.index.json', 'tokenizer.model']],
    ['GGUF with a config beside it', ['config.json', 'a.gguf', 'README.md'], ['a.gguf']],
  ])('%s', (_, names, expected) => expect(modelFiles(names)).toEqual(expected));

  it('a GGUF in several parts is one model', () => {
    const names = ['a-00001-of-00002.gguf', 'a-00002-of-00002.gguf', 'b.gguf'];
    expect(ggufModels(names)).toEqual(['a-00001-of-00002.gguf', 'b.gguf']);
    expect(modelParts('a-00002-of-00002.gguf', names)).toEqual(['a-00001-of-00002.gguf', 'a-00002-of-00002.gguf']);
    expect(modelParts('b.gguf', names)).toEqual(['b.gguf']);
  });
});

describe('room for what is fetched', () => {
  it('is looked for first', async () => {
    const directory = temporaryDirectory();
    await expect(requireSpace(directory, 1e18, 'HF_HUB_CACHE')).rejects.toThrow(
      new RegExp(`^${directory}: expected 1000000000\\.0 GB free to fetch into it, got \\d+\\.\\d GB; make room, or name another place with HF_HUB_CACHE$`),
    );
    await requireSpace(`${directory}/not/there/yet`, 0, 'HF_HUB_CACHE');
  });
});
