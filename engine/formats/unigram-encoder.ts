import { pieceKinds, type SentencePieceModel } from './sentencepiece-model.js';

/** Taken off the least score for a character that is in no piece. */
const unknownPenalty = 10;

interface Node {
  /** By the next character's UTF-16 unit. */
  next: Map<number, Node>;
  id?: number;
}

/**
 * SentencePiece's unigram model (unigram_model.cc, EncodeOptimized): the pieces with the greatest sum of scores that make up the
 * text. Sums are kept in float32, which decides between ways that are equally good.
 * @returns the ids of a normalised text
 */
export function unigramEncoder({ pieces, unknownId, byteFallback }: SentencePieceModel): (text: string) => number[] {
  const root: Node = { next: new Map() };
  pieces.forEach(({ text, kind }, id) => {
    if (kind !== pieceKinds.normal && kind !== pieceKinds.userDefined) return;
    let node = root;
    for (let i = 0; i < text.length; i++) {
      const unit = text.charCodeAt(i);
      let next = node.next.get(unit);
      if (!next) node.next.set(unit, (next = { next: new Map() }));
      node = next;
    }
    node.id = id;
  });
  const normal = pieces.filter(({ kind }) => kind === pieceKinds.normal).map(({ score }) => score);
  const unknownScore = Math.fround(normal.reduce((least, score) => Math.min(least, score), Infinity) - unknownPenalty);
  const bytePieces = new Map(pieces.flatMap(({ text, kind }, id) => (kind === pieceKinds.byte ? [[text, id] as const] : [])));

  return (text) => {
    const scores = new Float32Array(text.length + 1);
    const starts = new Int32Array(text.length + 1).fill(-1);
    const ids = new Int32Array(text.length + 1);
    const offer = (start: number, end: number, id: number, score: number): void => {
      const sum = Math.fround(score + scores[start]);
      if (starts[end] !== -1 && sum <= scores[end]) return;
      starts[end] = start;
      ids[end] = id;
      scores[end] = sum;
    };
    for (let start = 0; start < text.length; ) {
      const width = text.codePointAt(start)! > 0xffff ? 2 : 1;
      let isPiece = false;
      let node: Node | undefined = root;
      for (let end = start; end < text.length && (node = node.next.get(text.charCodeAt(end))); ) {
        end++;
        if (node.id === undefined) continue;
        offer(start, end, node.id, pieces[node.id].score);
        isPiece ||= end - start === width;
      }
      if (!isPiece) offer(start, start + width, unknownId, unknownScore);
      start += width;
    }
    const reversed: number[] = [];
    for (let end = text.length; end > 0; end = starts[end]) {
      if (ids[end] !== unknownId) reversed.push(ids[end]);
      else if (byteFallback) reversed.push(...bytesOf(text.slice(starts[end], end)).reverse());
      else if (reversed.at(-1) !== unknownId) reversed.push(unknownId); // neighbours that are unknown are one
    }
    return reversed.reverse();
  };

  function bytesOf(character: string): number[] {
    return Array.from(Buffer.from(character), (byte) => bytePieces.get(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`) ?? unknownId);
  }
}
