#include "metrics/family.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "metrics/series.h"

#define KEY_MAX 4096 /* bytes of all label values of a series */

static bool is_name(const char *name)
{
    const char *s = name;

    if (*s >= '0' && *s <= '9')
        return false;
    while ((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9') ||
           *s == '_')
        s++;
    return s > name && *s == '\0';
}

static bool ends_with(const char *text, const char *end)
{
    size_t len = strlen(text), end_len = strlen(end);
    return len > end_len && strcmp(text + len - end_len, end) == 0;
}

static size_t count_labels(const struct metric *row)
{
    size_t count = 0;

    while (count < METRIC_MAX_LABELS && row->labels[count] != NULL)
        count++;
    return count;
}

/* A row that breaks the formats' rules is our own bug, and found by the first start. */
static enum err check_row(const struct metric *rows, size_t index)
{
    const struct metric *row = &rows[index];
    bool right = is_name(row->name) && row->help != NULL;

    right = right && (row->type != METRIC_COUNTER || ends_with(row->name, "_total"));
    right = right && (row->type == METRIC_HISTOGRAM) == (row->bucket_count > 0);
    for (size_t i = 0; right && i < count_labels(row); i++)
        right = is_name(row->labels[i]) && strcmp(row->labels[i], "le") != 0;
    for (size_t i = 0; right && i < row->bucket_count; i++)
        right = isfinite(row->buckets[i]) && (i == 0 || row->buckets[i] > row->buckets[i - 1]);
    for (size_t i = 0; right && i < index; i++)
        right = strcmp(row->name, rows[i].name) != 0;
    return right ? ERR_OK : err_set(ERR_INTERNAL, "metric %s is declared wrongly", row->name);
}

enum err metrics_new(struct metrics **out, const struct metric *rows, size_t count)
{
    struct metrics *metrics;

    for (size_t i = 0; i < count; i++) {
        enum err err = check_row(rows, i);
        if (err != ERR_OK)
            return err;
    }
    metrics = calloc(1, sizeof *metrics);
    if (metrics != NULL)
        metrics->families = calloc(count > 0 ? count : 1, sizeof *metrics->families);
    if (metrics == NULL || metrics->families == NULL) {
        free(metrics);
        return err_set(ERR_NOMEM, "no memory for %zu metrics", count);
    }
    metrics->count = count;
    for (size_t i = 0; i < count; i++) {
        metrics->families[i].row = &rows[i];
        metrics->families[i].label_count = count_labels(&rows[i]);
    }
    *out = metrics;
    return ERR_OK;
}

static void series_free(struct series *series)
{
    if (series == NULL)
        return;
    free(series->key);
    free(series->counts);
    free(series);
}

void metrics_clear(struct metrics *metrics, size_t row)
{
    struct family *family = &metrics->families[row];

    for (size_t i = 0; i < family->count; i++)
        series_free(family->series[i]);
    family->count = 0;
}

void metrics_free(struct metrics *metrics)
{
    if (metrics == NULL)
        return;
    for (size_t i = 0; i < metrics->count; i++) {
        metrics_clear(metrics, i);
        free(metrics->families[i].series);
    }
    free(metrics->families);
    free(metrics);
}

static enum err make_key(const struct family *family, const char *const *values, char key[KEY_MAX],
                         size_t *key_len)
{
    size_t len = 0;

    for (size_t i = 0; i < family->label_count; i++) {
        size_t size = strlen(values[i]) + 1;
        if (len + size > KEY_MAX)
            return err_set(ERR_LIMIT, "the labels of %s are too long", family->row->name);
        memcpy(key + len, values[i], size);
        len += size;
    }
    *key_len = len;
    return ERR_OK;
}

static int compare_keys(const char *a, size_t a_len, const char *b, size_t b_len)
{
    size_t least = a_len < b_len ? a_len : b_len;
    int order = least > 0 ? memcmp(a, b, least) : 0;

    return order != 0 ? order : (a_len > b_len) - (a_len < b_len);
}

/* Index of the series with this key, or where it belongs. */
static size_t find_place(const struct family *family, const char *key, size_t key_len, bool *found)
{
    size_t low = 0, high = family->count;

    *found = false;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct series *series = family->series[middle];
        int order = compare_keys(series->key, series->key_len, key, key_len);
        if (order == 0) {
            *found = true;
            return middle;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct series *series_new(const struct family *family, const char *key, size_t key_len)
{
    struct series *series = calloc(1, sizeof *series);
    size_t counts = family->row->bucket_count + 1;

    if (series == NULL)
        return NULL;
    series->key = malloc(key_len + 1);
    if (family->row->type == METRIC_HISTOGRAM)
        series->counts = calloc(counts, sizeof *series->counts);
    if (series->key == NULL || (family->row->type == METRIC_HISTOGRAM && series->counts == NULL)) {
        series_free(series);
        return NULL;
    }
    memcpy(series->key, key, key_len);
    series->key_len = key_len;
    return series;
}

/* The series with these label values, made when there is none. */
static enum err get_series(struct metrics *metrics, size_t row, const char *const *values,
                           struct series **out)
{
    struct family *family = &metrics->families[row];
    char key[KEY_MAX];
    size_t key_len = 0, place;
    bool found;
    struct series *series;
    enum err err = make_key(family, values, key, &key_len);

    if (err != ERR_OK)
        return err;
    place = find_place(family, key, key_len, &found);
    if (found) {
        *out = family->series[place];
        return ERR_OK;
    }
    if (family->count == METRICS_MAX_SERIES)
        return err_set(ERR_LIMIT, "more than %d series of %s", METRICS_MAX_SERIES,
                       family->row->name);
    if (family->count == family->cap) {
        size_t cap = family->cap > 0 ? family->cap * 2 : 4;
        struct series **grown = realloc(family->series, cap * sizeof(struct series *));
        if (grown == NULL)
            return err_set(ERR_NOMEM, "no memory for %s", family->row->name);
        family->series = grown;
        family->cap = cap;
    }
    series = series_new(family, key, key_len);
    if (series == NULL)
        return err_set(ERR_NOMEM, "no memory for %s", family->row->name);
    memmove(family->series + place + 1, family->series + place,
            (family->count - place) * sizeof(struct series *));
    family->series[place] = series;
    family->count++;
    *out = series;
    return ERR_OK;
}

/* Row numbers and types are the program's own: a wrong one is a bug that is told, not obeyed. */
static enum err check_type(const struct metrics *metrics, size_t row, bool histogram)
{
    if (row >= metrics->count ||
        (metrics->families[row].row->type == METRIC_HISTOGRAM) != histogram)
        return err_set(ERR_INTERNAL, "metric row %zu is of another type", row);
    return ERR_OK;
}

enum err metrics_set(struct metrics *metrics, size_t row, const char *const *values, double value)
{
    struct series *series = NULL;
    enum err err = check_type(metrics, row, false);

    if (err == ERR_OK)
        err = get_series(metrics, row, values, &series);
    if (err == ERR_OK)
        series->value = value;
    return err;
}

enum err metrics_add(struct metrics *metrics, size_t row, const char *const *values, double amount)
{
    struct series *series = NULL;
    enum err err = check_type(metrics, row, false);

    if (err == ERR_OK)
        err = get_series(metrics, row, values, &series);
    if (err == ERR_OK)
        series->value += amount;
    return err;
}

enum err metrics_observe(struct metrics *metrics, size_t row, const char *const *values,
                         double value)
{
    const struct metric *metric;
    struct series *series = NULL;
    size_t bucket = 0;
    enum err err = check_type(metrics, row, true);

    if (err == ERR_OK && isnan(value))
        return err_set(ERR_INVALID, "not a number");
    if (err == ERR_OK)
        err = get_series(metrics, row, values, &series);
    if (err != ERR_OK)
        return err;
    metric = metrics->families[row].row;
    while (bucket < metric->bucket_count && value > metric->buckets[bucket])
        bucket++;
    series->counts[bucket]++;
    series->value += value;
    return ERR_OK;
}

enum err metrics_set_histogram(struct metrics *metrics, size_t row, const char *const *values,
                               const uint64_t *counts, double sum)
{
    struct series *series = NULL;
    enum err err = check_type(metrics, row, true);

    if (err == ERR_OK)
        err = get_series(metrics, row, values, &series);
    if (err != ERR_OK)
        return err;
    memcpy(series->counts, counts,
           (metrics->families[row].row->bucket_count + 1) * sizeof *series->counts);
    series->value = sum;
    return ERR_OK;
}
