/* The rule by which pieces are taken: contiguous, of the latest claim, never spliced. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bus/tokens.h"

#define A "aaaaaaaaaaaaaaaa"
#define B "bbbbbbbbbbbbbbbb"
#define C "cccccccccccccccc"

static struct claim claim_of(const char *nonce, const char *previous)
{
    struct claim claim = {.kind = CLAIM_HELD};
    strcpy(claim.nonce, nonce);
    strcpy(claim.previous, previous);
    return claim;
}

static struct pieces pieces_of(const char *nonce, uint64_t first, size_t count)
{
    struct pieces pieces = {.first = first, .count = count};
    strcpy(pieces.nonce, nonce);
    return pieces;
}

static enum piece_verdict take(struct piece_reader *reader, const char *nonce, uint64_t first,
                               size_t count, size_t *skip)
{
    const struct pieces pieces = pieces_of(nonce, first, count);
    return piece_reader_take(reader, &pieces, skip);
}

static void test_contiguous(void **state)
{
    struct piece_reader reader = {0};
    const struct claim a = claim_of(A, "");
    size_t skip = 99;
    assert_int_equal(take(&reader, A, 0, 1, &skip), PIECE_GAP); /* its claim was not heard */
    piece_reader_claim(&reader, &a);
    assert_int_equal(take(&reader, A, 0, 2, &skip), PIECE_TAKE);
    assert_int_equal(skip, 0);
    assert_int_equal(take(&reader, A, 2, 1, &skip), PIECE_TAKE);
    assert_int_equal(take(&reader, A, 5, 1, &skip), PIECE_GAP);
    assert_int_equal(reader.next, 3);
    assert_int_equal(take(&reader, A, 1, 1, &skip), PIECE_IGNORE); /* heard again */
    assert_int_equal(take(&reader, A, 2, 3, &skip), PIECE_TAKE);   /* half of it is new */
    assert_int_equal(skip, 1);
    assert_int_equal(reader.next, 5);
    assert_int_equal(take(&reader, A, 5, 0, &skip), PIECE_TAKE); /* "done", without text */
}

static void test_takeover(void **state)
{
    struct piece_reader reader = {0};
    const struct claim a = claim_of(A, ""), b = claim_of(B, "");
    size_t skip;
    piece_reader_claim(&reader, &a);
    assert_int_equal(take(&reader, A, 0, 4, &skip), PIECE_TAKE);
    piece_reader_claim(&reader, &b);
    assert_int_equal(take(&reader, A, 4, 1, &skip), PIECE_IGNORE); /* its claim is lost */
    assert_int_equal(take(&reader, B, 4, 1, &skip), PIECE_TAKE);
    piece_reader_claim(&reader, &b); /* told twice */
    assert_int_equal(take(&reader, B, 5, 1, &skip), PIECE_TAKE);
}

static void test_splice(void **state)
{
    struct piece_reader reader = {0};
    const struct claim a = claim_of(A, ""), b = claim_of(B, "");
    size_t skip;
    piece_reader_claim(&reader, &a);
    assert_int_equal(take(&reader, A, 0, 4, &skip), PIECE_TAKE);
    piece_reader_claim(&reader, &b);
    /* The broker lost pieces 2 and 3, and another worker went on from there. */
    assert_int_equal(take(&reader, B, 2, 1, &skip), PIECE_SPLICE);
    assert_int_equal(reader.next, 4);
}

static void test_sent_again(void **state)
{
    struct piece_reader reader = {0};
    const struct claim a = claim_of(A, ""), b = claim_of(B, A), c = claim_of(C, A);
    size_t skip;
    piece_reader_claim(&reader, &a);
    assert_int_equal(take(&reader, A, 0, 4, &skip), PIECE_TAKE);
    /* The same worker, after a broker's restart, sends what was lost again. */
    piece_reader_claim(&reader, &b);
    assert_int_equal(take(&reader, B, 2, 2, &skip), PIECE_IGNORE);
    assert_int_equal(take(&reader, B, 3, 3, &skip), PIECE_TAKE);
    assert_int_equal(skip, 1);
    /* A continuation of a claim that is not the latest proves nothing. */
    piece_reader_claim(&reader, &c);
    assert_int_equal(take(&reader, C, 5, 1, &skip), PIECE_SPLICE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contiguous),
        cmocka_unit_test(test_takeover),
        cmocka_unit_test(test_splice),
        cmocka_unit_test(test_sent_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
