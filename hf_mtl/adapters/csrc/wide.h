/* x W^T and x W for a wide W, made of the pieces of wide_kernels.h. */

/* Terms of a panel, which stays near: its values are asked for again for each tile. */
#define TERMS 384
/* Rows that one thread takes at least. */
#define FEWEST 48
#define WIDEST_PANEL 32
#define MOST_ROWS 12

typedef struct {
  size_t rows, terms, columns; /* of x; summed up; of the result */
  size_t parts, block;         /* the rows are cut into; terms at once */
  const float *x, *weight;     /* [rows, terms]; [columns, terms], or `turned` [terms, columns] */
  float *y;                    /* [rows, columns] */
  int turned, adds;
} Wide;

/* Where the values of these columns and terms begin. */
static const float *of_panel(const Wide *p, size_t column, size_t term) {
  return p->turned ? p->weight + term * p->columns + column : p->weight + column * p->terms + term;
}

/* The addresses to ask for in step `k` of `steps`: that part of the panel which comes after this one. */
static void to_ask_for(const Wide *p, size_t column, size_t term, size_t k, size_t steps, const float **ask) {
  if (term + p->block < p->terms) {
    term += p->block;
  } else {
    column += kernels->panel, term = 0;
  }
  size_t i = 0, most = p->block / EACH;
  if (column < p->columns) {
    size_t ldw = p->turned ? p->columns : p->terms;
    size_t terms = smaller(p->block, p->terms - term), columns = smaller(kernels->panel, p->columns - column);
    size_t width = p->turned ? columns : terms, lines = (width + 15) / 16, all = lines * (p->turned ? terms : columns);
    size_t from = all * k / steps, number = smaller(all * (k + 1) / steps - from, most), line = from % lines;
    const float *of_line = of_panel(p, column, term) + from / lines * ldw;
    for (; i < number; i++) {
      ask[i] = of_line + line * 16;
      if (++line == lines) line = 0, of_line += ldw;
    }
  }
  for (; i < most; i++) ask[i] = p->x;
}

/* These rows of the columns from `column` on, at most a panel of them. */
static void wide_panel(const Wide *p, size_t column, size_t first, size_t last) {
  float panel[TERMS * WIDEST_PANEL] __attribute__((aligned(64))), rest[MOST_ROWS * WIDEST_PANEL];
  const float *ask[TERMS / EACH + 2];
  size_t columns = smaller(kernels->panel, p->columns - column), steps = (last - first + MOST_ROWS - 1) / MOST_ROWS;
  for (size_t term = 0; term < p->terms; term += p->block) {
    size_t terms = smaller(p->block, p->terms - term);
    int adds = p->adds || term > 0;
    (p->turned ? kernels->pack_columns : kernels->pack_rows)(columns, terms, of_panel(p, column, term),
                                                             p->turned ? p->columns : p->terms, panel);
    for (size_t m = first, k = 0; m < last; m += MOST_ROWS, k++) {
      size_t rows = smaller(MOST_ROWS, last - m);
      const float *x = p->x + m * p->terms + term;
      float *y = p->y + m * p->columns + column;
      to_ask_for(p, column, term, k, steps, ask);
      if (columns == kernels->panel) {
        kernels->tiles(rows, terms, x, p->terms, panel, y, p->columns, adds, ask);
        continue;
      }
      kernels->tiles(rows, terms, x, p->terms, panel, rest, kernels->panel, 0, ask);
      for (size_t i = 0; i < rows; i++) {
        for (size_t c = 0; c < columns; c++) {
          float sum = rest[i * kernels->panel + c];
          y[i * p->columns + c] = adds ? y[i * p->columns + c] + sum : sum;
        }
      }
    }
  }
}

static void wide(Wide *p, size_t threads) {
  size_t blocks = (p->terms + TERMS - 1) / TERMS, panels = (p->columns + kernels->panel - 1) / kernels->panel;
  p->block = ((p->terms + blocks - 1) / blocks + 15) / 16 * 16;
  /* Few panels for many threads: rows are cut too. */
  p->parts = threads == 1 || panels % threads == 0 ? 1 : (4 * threads + panels - 1) / panels;
  p->parts = smaller(p->parts, p->rows < FEWEST ? 1 : p->rows / FEWEST);
  size_t pieces = panels * p->parts;
#pragma omp parallel for num_threads((int)threads) schedule(static)
  for (size_t i = 0; i < pieces; i++) {
    size_t k = i % p->parts;
    wide_panel(p, i / p->parts * kernels->panel, part(p->rows, MOST_ROWS, k, p->parts), part(p->rows, MOST_ROWS, k + 1, p->parts));
  }
}
