import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { formatStage } from '../../activities/format.js';
import { fineTuneConfigSchema } from '../../contracts/fine-tune-config.js';
import { evaluationPromptSchema, formatOutputSchema, samplePreviewSchema, type FormatInput } from '../../contracts/stages.js';
import { readTokenFile } from '../../engine/data/token-file.js';
import { stageKit } from '../kit/stage.js';

const EOS = 2;
let kit: Awaited<ReturnType<typeof stageKit>>;

/** A model directory whose tokenizer has one token for each byte (id = byte + 3) and no merges. */
beforeAll(async () => {
  kit = await stageKit();
  const model = join(kit.directory, 'model');
  await mkdir(model);
  const special = (id: number, content: string) => ({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true });
  await writeFile(join(model, 'tokenizer.json'), JSON.stringify({
    version: '1.0', truncation: null, padding: null, normalizer: null, post_processor: null,
    added_tokens: [special(0, '<unk>'), special(1, '<s>'), special(EOS, '</s>')],
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    model: { type: 'BPE', unk_token: null, vocab: { '<unk>': 0, '<s>': 1, '</s>': EOS, ...byteVocabulary() }, merges: [] },
  }));
  await writeFile(join(model, 'tokenizer_config.json'), JSON.stringify({ bos_token: '<s>', eos_token: '</s>', add_bos_token: true }));
  await writeFile(join(model, 'config.json'), JSON.stringify({
    architectures: ['LlamaForCausalLM'], model_type: 'llama', vocab_size: 259, hidden_size: 8, intermediate_size: 16, num_hidden_layers: 1,
    num_attention_heads: 2, num_key_value_heads: 1, max_position_embeddings: 64, rms_norm_eps: 1e-5, eos_token_id: EOS, bos_token_id: 1,
  }));
  kit.context.models.open = async () => model;
});
afterAll(() => kit.remove());

/** GPT-2's printable stand-ins for bytes → id. */
function byteVocabulary(): Record<string, number> {
  const vocabulary: Record<string, number> = {};
  let standIn = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    vocabulary[String.fromCodePoint(printable ? byte : standIn++)] = byte + 3;
  }
  return vocabulary;
}
const bytes = (text: string) => [...Buffer.from(text)].map((byte) => byte + 3);
const sha256 = 'a'.repeat(64);

async function inputFor(change: { format?: object; evaluate?: object; loss?: 'response' | 'all' } = {}): Promise<FormatInput> {
  const jsonl = (rows: object[]) => kit.context.store.putBytes(Buffer.from(rows.map((row) => `${JSON.stringify(row)}\n`).join('')), 'application/jsonl');
  const { format, evaluate } = fineTuneConfigSchema.shape;
  return {
    model: {
      uri: 'file:model', format: 'safetensors', files: [{ name: 'config.json', uri: 'file:///x', sha256, bytes: 1, mediaType: 'application/json' }],
      architecture: { name: 'llama', layers: 1, hiddenSize: 8, intermediateSize: 16, heads: 2, kvHeads: 1, headDim: 4, vocabSize: 259, contextLength: 64, parameters: 1 },
    },
    format: format.parse({ template: { prompt: 'Q {product}:' }, response: '{text}', endMarker: '#', maxLength: 16, ...change.format }),
    loss: change.loss ?? 'response',
    evaluate: evaluate.parse({ prompts: [{ product: 'x' }], testRows: 1, ...change.evaluate }),
    columns: ['product', 'text'],
    train: await jsonl([{ product: 'é', text: 'öl' }, { product: 'b', text: 'a long answer, cut' }]),
    test: await jsonl([{ product: 'c', text: 'three' }, { product: 'd', text: 'four' }]),
  };
}

describe('format', () => {
  it('refuses tokens that the model has no embedding for', async () => {
    const input = await inputFor({ evaluate: { prompts: [{ product: 'z' }] } });
    input.model.architecture.vocabSize = 'z'.charCodeAt(0) + 3;
    await expect(formatStage.run(input, kit.context)).rejects.toMatchObject({
      problems: [
        { path: 'model.uri', message: "train split: expected tokens below 125, the model's vocabulary, got \"Ã\" (198), \"©\" (172), \"¶\" (185)" },
        { path: 'model.uri', message: "prompts of the evaluation: expected tokens below 125, the model's vocabulary, got \"z\" (125)" },
      ],
    });
  });

  it('writes token files, prompts, a preview and a report', async () => {
    const output = formatOutputSchema.parse(await formatStage.run(await inputFor(), kit.context));

    const path = join(kit.directory, 'train.safetensors');
    await kit.context.store.getFile(output.train, path);
    const train = await readTokenFile(path);
    expect([...train.ids(0)]).toEqual([1, ...bytes('Q é:'), ...bytes('öl#'), EOS]);
    expect([...train.mask(0)]).toEqual([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]);
    expect([...train.ids(1)]).toEqual([1, ...bytes('Q b:'), ...bytes('a long answer, cut')].slice(0, 16));
    expect(output.report.train).toMatchObject({ rows: 2, tokens: 27, trainedTokens: 16, truncated: 1, longest: 16 });
    expect(output.report.test).toMatchObject({ rows: 2, truncated: 0 });

    const prompts = evaluationPromptSchema.array().parse(JSON.parse((await kit.context.store.getBytes(output.prompts)).toString()));
    expect(prompts).toEqual([
      { prompt: 'Q x:', promptIds: [1, ...bytes('Q x:')], ownPrompt: 'Q: Q x:\nA:', ownPromptIds: [1, ...bytes('Q: Q x:\nA:')], reference: null, stop: '#' },
      { prompt: 'Q c:', promptIds: [1, ...bytes('Q c:')], ownPrompt: 'Q: Q c:\nA:', ownPromptIds: [1, ...bytes('Q: Q c:\nA:')], reference: 'three', stop: '#' },
    ]);

    const preview = samplePreviewSchema.parse(JSON.parse((await kit.context.store.getBytes(output.preview)).toString()));
    expect(preview.rendered).toBe('Q é:öl#');
    expect(preview.tokens.map(({ text }) => text).join('|')).toBe('<s>|Q| ||é|:||ö|l|#|</s>');
    expect(preview.tokens.map(({ trained }) => Number(trained)).join('')).toBe('00000011111');
  });

  it('gives the same artifacts for the same input', async () => {
    const input = await inputFor();
    expect(await formatStage.run(input, kit.context)).toEqual(await formatStage.run(input, kit.context));
  });

  it('refuses rows whose prompt leaves no room for the response, naming split and row', async () => {
    const input = await inputFor({ format: { template: { prompt: 'A rather long question: {product}' } } });
    await expect(formatStage.run(input, kit.context)).rejects.toThrow(
      'format.maxLength: train split: expected every row to keep a token of its response within 16 tokens, got none in row 1 (prompt of 27 tokens), row 2 (prompt of 26 tokens)',
    );
  });

  it('refuses placeholders and prompts that fit nothing, all at once', async () => {
    const input = await inputFor({ format: { response: '{txt}' }, evaluate: { prompts: [{ produkt: 'x' }] } });
    await expect(formatStage.run(input, kit.context)).rejects.toMatchObject({
      problems: [
        { path: 'format.response', message: "{txt}: expected a column of the dataset (product, text), got 'txt'" },
        { path: 'evaluate.prompts[0].product' }, { path: 'evaluate.prompts[0].produkt' },
      ],
    });
  });
});
