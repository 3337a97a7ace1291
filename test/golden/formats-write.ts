/**
 * Writes what formats-check.py loads:  npx tsx test/golden/formats-write.ts OUT [MODEL]
 * MODEL is a GGUF or a directory; without it, the small golden GGUF.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { llamaTensors } from '../../engine/formats/llama-tensors.js';
import { openModel } from '../../engine/formats/open-model.js';
import { openTokenizer } from '../../engine/formats/open-tokenizer.js';
import { peftTensorName, writePeftAdapter, type PeftTensor } from '../../engine/formats/peft-adapter.js';
import { writeHuggingFaceModel } from '../../engine/formats/write-huggingface-model.js';

const [out, model = 'test/golden/formats-model.gguf'] = process.argv.slice(2);
const source = await openModel(model);
const tokenizer = await openTokenizer(model);
const parts = { config: source.config, read: (name: string) => source.read(name), tokenizer };
await writeHuggingFaceModel(join(out, 'f32'), parts, { dtype: 'f32' });
await writeHuggingFaceModel(join(out, 'bf16'), parts);
await writeHuggingFaceModel(join(out, 'sharded'), parts, { dtype: 'f32', maxShardBytes: 60_000 });

const rank = 2;
const tensors = new Map<string, PeftTensor>();
for (const [name, [rows, columns]] of llamaTensors(source.config)) {
  if (!/(q|v|down)_proj/.test(name)) continue;
  const wave = (length: number) => Float32Array.from({ length }, (_, i) => Math.sin(i + tensors.size / 2));
  const module = name.replace(/\.weight$/, '');
  const [a, b] = [wave(rank * columns), wave(rows * rank)];
  tensors.set(peftTensorName(module, 'A'), { shape: [rank, columns], values: a });
  tensors.set(peftTensorName(module, 'B'), { shape: [rows, rank], values: b });
}
await writePeftAdapter(join(out, 'adapter'), {
  config: { rank, alpha: 8, dropout: 0.05, targetModules: ['q_proj', 'v_proj', 'down_proj'], baseModel: join(out, 'f32') }, tensors,
});
await source.close();

const texts = ['Hello world 123', '<|im_start|>user\nhi<|im_end|>\n', '  naïve 😀\t12', 'don\'t', ''];
const messages = [{ role: 'user', content: 'What is it?' }, { role: 'assistant', content: 'A cup.' }];
writeFileSync(join(out, 'expected.json'), JSON.stringify({
  texts, ids: await tokenizer.encodeBatch(texts), decoded: await tokenizer.decodeBatch(await tokenizer.encodeBatch(texts), { skipSpecial: true }),
  messages, chat: tokenizer.renderChat(messages, { addGenerationPrompt: true }), eos: tokenizer.eosTokenId, bos: tokenizer.bosTokenId, pad: tokenizer.padTokenId,
}));
