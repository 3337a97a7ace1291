import { segmentedEncoder } from './segmented-encoder.js';
import type { SentencePieceModel } from './sentencepiece-model.js';
import { sentencePieceNormalizer } from './sentencepiece-normalizer.js';
import type { AddedToken } from './tokenizer-json.js';
import { unigramEncoder } from './unigram-encoder.js';

/**
 * Encodes texts exactly as SentencePiece does between added tokens, which Hugging Face's library does not: its copy of the
 * normalisation rules works on grapheme clusters, and its unigram search adds up in float64.
 * @param addPrefixSpace tokenizer_config.json's
 * @param merge ids of normalised texts by the vocabulary's BPE
 */
export function sentencePieceEncoder(
  model: SentencePieceModel, added: readonly AddedToken[], addPrefixSpace: boolean, merge: (texts: string[]) => Promise<number[][]>,
): (texts: string[]) => Promise<number[][]> {
  const normalize = sentencePieceNormalizer(model, addPrefixSpace);
  const unigram = model.algorithm === 'unigram' ? unigramEncoder(model) : undefined;
  return segmentedEncoder(added, async (texts) => {
    const normal = texts.map(normalize);
    return unigram ? normal.map(unigram) : merge(normal);
  });
}
