#include "config/digest.h"

#include <openssl/evp.h>
#include <stdint.h>
#include <stdio.h>

enum err digest_parts(char out[DIGEST_SIZE], const struct digest_part *parts, size_t count)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    int ok = context != NULL && EVP_DigestInit_ex(context, EVP_sha256(), NULL) == 1;
    for (size_t i = 0; ok && i < count; i++) {
        uint64_t size = parts[i].len;
        ok = EVP_DigestUpdate(context, &size, sizeof size) == 1 &&
             EVP_DigestUpdate(context, parts[i].data, parts[i].len) == 1;
    }
    ok = ok && EVP_DigestFinal_ex(context, digest, &len) == 1 && 2 * len == DIGEST_LEN;
    EVP_MD_CTX_free(context);
    if (!ok)
        return err_set(ERR_NOMEM, "no memory for a checksum");
    for (unsigned i = 0; i < len; i++)
        snprintf(out + 2 * i, 3, "%02x", digest[i]);
    return ERR_OK;
}
