/**
 * ROUGE-L F1 of two texts, 0..1, as Google's `rouge_score` computes it without stemming: lower case, runs of a-z and 0-9 are the
 * words, F1 of the longest common subsequence. 0 when either text has no word.
 */
export function rougeL(text: string, reference: string): number {
  const words = rougeWords(text);
  const referenceWords = rougeWords(reference);
  if (words.length === 0 || referenceWords.length === 0) return 0;
  const common = longestCommonSubsequence(words, referenceWords);
  const precision = common / words.length;
  const recall = common / referenceWords.length;
  return common === 0 ? 0 : (2 * precision * recall) / (precision + recall);
}

const rougeWords = (text: string): string[] => text.toLowerCase().match(/[a-z0-9]+/g) ?? [];

function longestCommonSubsequence(a: readonly string[], b: readonly string[]): number {
  let above = new Uint32Array(b.length + 1);
  for (const word of a) {
    const row = new Uint32Array(b.length + 1);
    for (let j = 1; j <= b.length; j++) row[j] = word === b[j - 1] ? above[j - 1] + 1 : Math.max(above[j], row[j - 1]);
    above = row;
  }
  return above[b.length];
}

/** Share of a text's word 4-grams that occurred earlier in it, 0..1; 0 for a text of fewer than five words. */
export function repetition(text: string): number {
  const words = text.split(/\s+/).filter((word) => word !== '');
  const total = words.length - 3;
  if (total < 2) return 0;
  const seen = new Set<string>();
  for (let i = 0; i < total; i++) seen.add(words.slice(i, i + 4).join(' '));
  return 1 - seen.size / total;
}

export interface ScoredAnswer {
  text: string;
  /** The answer in the data, or null where there is none. */
  reference: string | null;
  /** Generated tokens. */
  tokens: number;
  /** Ended by itself, not by the token limit. */
  stopped: boolean;
}

export interface AnswerMetrics {
  /** Mean ROUGE-L F1 over the answers with a reference; null without any. */
  rougeL: number | null;
  meanTokens: number;
  /** Mean share of repeated word 4-grams. */
  repetition: number;
  /** Share of answers that stopped by themselves. */
  stopRate: number;
}

/** Averages over answers, each answer with the same weight; zeros without any. */
export function answerMetrics(answers: readonly ScoredAnswer[]): AnswerMetrics {
  const scores = answers.flatMap(({ text, reference }) => (reference === null ? [] : [rougeL(text, reference)]));
  return {
    rougeL: scores.length === 0 ? null : mean(scores),
    meanTokens: mean(answers.map(({ tokens }) => tokens)),
    repetition: mean(answers.map(({ text }) => repetition(text))),
    stopRate: mean(answers.map(({ stopped }) => Number(stopped))),
  };
}

const mean = (values: readonly number[]): number => (values.length === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length);
